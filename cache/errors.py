"""Errors of the store. Each also is the builtin that a caller without this package would expect; each is one line."""


class CacheError(Exception):
    """Root of every error this package raises on purpose."""


class EncodingError(CacheError, ValueError):
    """An encoding that does not exist, or values and scales that do not fit it."""


class RecipeError(CacheError, ValueError):
    """The store holds an array of another recipe under this name; the text lists the fields that differ."""


class NotCachedError(CacheError, LookupError):
    """An image, array, receipt or file that is not there, or not in its present form."""


class SkippedImage(CacheError, LookupError):  # noqa: N818 - the name the format's description uses
    """The image could not be read when its shard was written; the receipt says why."""


class DamagedError(CacheError, OSError):
    """A file that is missing, truncated, or whose bytes do not match their checksum or digest."""


class NonFiniteError(CacheError, ArithmeticError):
    """A NaN, an infinity, or a value beyond the encoding's range."""


class IncompleteError(CacheError, RuntimeError):
    """A shard or manifest was to be closed while something of it was still missing."""


class LockedError(CacheError, RuntimeError):
    """Somebody else writes these arrays."""


class FileError(CacheError, OSError):
    """The system refused to open, read, write, rename or lock a file; ``errno`` is the system's."""


class StoreFullError(FileError):
    """No space left under the store, or this user's quota is used up."""

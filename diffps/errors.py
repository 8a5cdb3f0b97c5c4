"""Errors a user or a file can cause. Each also is the builtin that a caller without this package would expect."""


class DiffPSError(Exception):
    """Root of every error this package raises on purpose; its text is one line a user can act on."""


class UnknownTapError(DiffPSError, KeyError):
    """A tap id that no UNet of the supported topology has."""

    __str__ = Exception.__str__  # KeyError would print the message's repr


class CheckpointError(DiffPSError, ValueError):
    """A checkpoint that is missing, incomplete or not what it says."""


class ImageError(DiffPSError, ValueError):
    """An image that cannot be decoded, or decodes to something unusable."""


class PromptError(DiffPSError, ValueError):
    """A word that is not in the prompt, or a prompt the text encoder cannot take."""


class DatasetError(DiffPSError, ValueError):
    """Annotations that are missing, malformed, or not in the layout they claim."""


class ConfigError(DiffPSError, ValueError):
    """A parameter outside its range, or two that contradict each other."""


class CalibrationError(DiffPSError, ValueError):
    """Held-out identities that cannot calibrate a head, or a calibration that is none."""


class DivergedError(DiffPSError, ArithmeticError):
    """A loss or feature that became NaN or infinite."""


class WorkerError(DiffPSError, RuntimeError):
    """Worker processes that died again and again at the same work, or a scheduler that went away."""

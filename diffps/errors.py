"""Errors a user or a file can cause. Each also is the builtin that a caller without this package would expect."""

LONGEST = 1500  # characters of a message; what is longer repeats what a damaged file holds


class DiffPSError(Exception):
    """Root of every error this package raises on purpose; its text is one line a user can act on."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(one_line(part) if isinstance(part, str) else part for part in arguments))


def one_line(text: str, longest: int = LONGEST) -> str:
    """A text as one printable line: what cannot be shown is escaped, the middle of what is too long is left out."""
    if not text.isprintable():
        text = "".join(part if part.isprintable() else part.encode("unicode_escape").decode() for part in text)
    return text if len(text) <= longest else f"{text[: longest // 2]} ... {text[-longest // 3 :]}"


class UnknownTapError(DiffPSError, KeyError):
    """A tap id that no UNet of the supported topology has."""

    __str__ = Exception.__str__  # KeyError would print the message's repr


class CheckpointError(DiffPSError, ValueError):
    """A checkpoint that is missing, incomplete or not what it says."""


class ImageError(DiffPSError, ValueError):
    """An image that cannot be decoded, or decodes to something unusable."""


class PixelLimitError(ImageError):
    """An image of more pixels than allowed."""


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

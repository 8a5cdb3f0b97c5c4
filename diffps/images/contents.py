"""What lies in a file that is no image, in a few words: a mix-up is found faster by whoever is told what is there."""

import re

HEAD = 512  # bytes that are looked at
# How files begin, and what they then are.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs.github.com", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"/annex/objects/", "a git-annex pointer; fetch the file itself with `git annex get`"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"\xc5\xd0\xd3\xc6", "an EPS document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"8BPS", "a Photoshop document"),
    (b"\xff\x0a", "a JPEG XL image, which Pillow does not read"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image, which Pillow does not read"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file; export it as JPEG or TIFF"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"MATLAB 5.0", "a MATLAB file"),
)
# The brand in the first box of an ISO media file.
_BRANDS: dict[bytes, str] = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "raw",
}
_ADVICE = {
    "HEIC": "a HEIC image, which needs a plugin: pip install pillow-heif",
    "AVIF": "an AVIF image, which this Pillow was built without; install Pillow 11.3 or newer from a wheel",
    "raw": "a camera's raw file; export it as JPEG or TIFF",
}
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "BigTIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xffO\xff\x51", "JPEG 2000"),
)


def signature(head: bytes) -> str | None:
    """The image format that a file's first bytes promise, whether or not the rest keeps the promise."""
    if head[4:8] == b"ftyp":
        return {"HEIC": "HEIC", "AVIF": "AVIF"}.get(_BRANDS.get(head[8:12], ""))
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return next((name for start, name in _SIGNATURES if head.startswith(start)), None)


def describe(head: bytes, *, decodes: frozenset[str] = frozenset()) -> str:
    """What a file is that begins with ``head`` (up to HEAD bytes) and that no image format took.

    ``decodes``: which of AVIF and HEIC could have been read, so that no plugin is to blame.
    """
    if not head:
        return "the file is empty"
    if not head.strip(b"\0"):
        return "zero bytes only, as an interrupted download leaves"
    for start, what in _BEGINNINGS:
        if head.startswith(start):
            return what
    if head[4:8] == b"ftyp":
        kind = _BRANDS.get(head[8:12], "video")
        if kind not in decodes:
            return _ADVICE.get(kind, "a video or another ISO media file")
    if promised := signature(head):
        return f"it begins as {promised}, but its header is damaged or of a kind Pillow does not read"
    return _describe_text(head) or f"none of the image formats; it begins with {head[:8]!r}"


def _describe_text(head: bytes) -> str | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if re.match(rb"<!doctype html|<html|<head|<body", text):
        return "an HTML page, as a failed download leaves"
    if text.startswith((b"<svg", b"<?xml")):
        return "an SVG drawing; export it as PNG" if b"<svg" in text else "an XML document"
    if head[:64].isascii() and not re.search(rb"[\0-\x08\x0e-\x1f\x7f]", head[:64]):
        return f"text; it begins with {head[:24].decode('ascii').strip()!r}"
    return None

"""Names of files: compared in one normal form, and kept as text whatever bytes they hold."""

import re
import unicodedata
from collections.abc import Iterable

# Bytes that are no UTF-8 reach Python as surrogates (PEP 383); what would look like their escapes is escaped as well.
_SURROGATE = re.compile("[\udc80-\udcff]")
_ESCAPE = re.compile(r"\\x([89a-f][0-9a-f]|5c)")


def to_text(name: str) -> str:
    r"""A file's name as valid Unicode, for tables and JSON: bytes that are no UTF-8 become \x80 to \xff.

    Other names stay as they are. :func:`from_text` is the way back, for every name.
    """
    if not _SURROGATE.search(name) and not _ESCAPE.search(name):
        return name
    escaped = _ESCAPE.sub(lambda match: rf"\x5c{match[0][1:]}", name)
    return _SURROGATE.sub(lambda match: rf"\x{ord(match[0]) - 0xDC00:02x}", escaped)


def from_text(text: str) -> str:
    """The name that :func:`to_text` wrote."""
    return _ESCAPE.sub(lambda match: "\\" if match[1] == "5c" else chr(0xDC00 + int(match[1], 16)), text)


def normal(name: str) -> str:
    """The form in which names are compared: Unicode's NFC, since macOS hands out accents taken apart."""
    return unicodedata.normalize("NFC", name)


def same_name(one: str, other: str) -> bool:
    """Two names look identical."""
    return normal(one) == normal(other)


class Names:
    """Names as a disk has them, found by names as people and other disks write them."""

    def __init__(self, present: Iterable[str]) -> None:
        self._exact: set[str] = set()
        self._normal: dict[str, list[str]] = {}
        self._folded: dict[str, list[str]] = {}
        for name in present:
            self._exact.add(name)
            self._normal.setdefault(normal(name), []).append(name)
            self._folded.setdefault(_folded(name), []).append(name)

    def __len__(self) -> int:
        return len(self._exact)

    def find(self, name: str) -> str | None:
        """The disk's name for ``name``: the same, else the only one that looks identical."""
        if name in self._exact:
            return name
        alike = self._normal.get(normal(name), [])
        return alike[0] if len(alike) == 1 else None

    def near(self, name: str) -> list[str]:
        """Names on the disk that differ from ``name`` in case, or not visibly at all."""
        return [found for found in self._folded.get(_folded(name), []) if found != name]

    def alike(self) -> list[list[str]]:
        """Groups of names that look identical."""
        return [group for group in self._normal.values() if len(group) > 1]

    def alike_but_for_case(self) -> list[list[str]]:
        """Groups of names that differ in case only: one file each here, a single file on macOS and Windows."""
        return [group for group in self._folded.values() if len({normal(name) for name in group}) > 1]


def _folded(name: str) -> str:
    return normal(normal(name).casefold())

"""MATLAB 5 matrices in memory: struct arrays, cells, text and numbers, looked up in their bytes when asked for.

Places are looked up in NumPy arrays and memoryviews, which check their bounds: a damaged file ends in an exception.
Layout: MathWorks, "MAT-File Format", level 5. An element is a tag (type, bytes) and its data, padded to eight bytes;
data of up to four bytes may sit in the tag itself.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MATRIX = 14  # type of an element
CELL, STRUCT, CHAR, NUMERIC = 1, 2, 4, range(6, 16)  # classes of matrices
CLASSES = {CELL: "a cell array", STRUCT: "a struct array", CHAR: "text"} | dict.fromkeys(NUMERIC, "numbers")
NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
TEXTS = {1: "utf-8", 2: "utf-8", 16: "utf-8", 4: "utf-16-le", 17: "utf-16-le", 18: "utf-32-le"}
COMPLEX = 0x800
LONGEST_NAME = 128  # bytes of a struct array's field name; MATLAB's own limit is 63

Words = NDArray[np.uint32]
Places = NDArray[np.int64]


class Heads(NamedTuple):
    """What is told of (n,) matrices: class (0 where empty), rows, columns, first word of the contents, first after."""

    kinds: Places
    rows: Places
    columns: Places
    contents: Places
    ends: Places


class Matrices(NamedTuple):
    """Some matrices of one variable, unread: ``starts`` (n,), the word of each one's tag among ``words``."""

    words: Words
    starts: Places

    def heads(self) -> Heads:
        """Their headers. Raises ValueError for others than two-dimensional ones without an imaginary part."""
        sizes = _look(self.words, self.starts + 1)
        ends = self.starts + 2 + sizes // 4
        if (sizes % 4).any() or (ends > len(self.words)).any():
            raise ValueError("a matrix goes on after the end of what holds it")
        kinds, rows, columns, contents = np.zeros((4, len(self.starts)), np.int64)
        there = sizes > 0
        at = self.starts[there]
        for offset, expected in ((2, 6), (3, 8), (6, 5), (7, 8)):  # tags of the flags and of two dimensions
            if (_look(self.words, at + offset) != expected).any():
                raise ValueError("a matrix has no MATLAB 5 header, or more than two dimensions")
        flags = _look(self.words, at + 4)
        if (flags & COMPLEX).any():
            raise ValueError("a matrix has an imaginary part")
        kinds[there], rows[there], columns[there] = flags & 0xFF, *(_look(self.words, at + n) for n in (8, 9))
        contents[there] = _element(self.words, at + 10)[3]  # after the name
        if (contents > ends).any():
            raise ValueError("a matrix goes on after the end of what holds it")
        return Heads(kinds, rows, columns, contents, ends)

    def kinds(self) -> set[int]:
        """Their classes."""
        return set(self.heads().kinds.tolist())

    def texts(self) -> list[str]:
        """The text of each. Raises ValueError for one that is empty or no text."""
        kinds, at, sizes = self._data(self.heads(), (CHAR,))
        if not sizes.all():
            raise ValueError("a text is empty")
        data, coding = self.words.data.cast("B"), {kind: TEXTS.get(kind, "") for kind in set(kinds.tolist())}
        if "" in coding.values():
            raise ValueError("a text is coded in an unknown way")
        places = zip(kinds.tolist(), at.tolist(), sizes.tolist(), strict=True)
        return [str(data[first : first + size], coding[kind]) for kind, first, size in places]

    def numbers(self) -> list[NDArray[np.float64]]:
        """The numbers of each, column after column, empty ones included. Raises ValueError for other classes."""
        kinds, at, sizes = self._data(self.heads(), NUMERIC)
        found = [np.empty(0)] * len(sizes)
        for row in np.flatnonzero(sizes).tolist():
            kind = NUMBERS.get(int(kinds[row]), "")
            if not kind or sizes[row] % int(kind[-1]):
                raise ValueError("numbers are coded in an unknown way")
            count = int(sizes[row]) // int(kind[-1])
            found[row] = np.frombuffer(self.words, kind, count, int(at[row])).astype(np.float64)
        return found

    def table(self) -> NDArray[np.float64]:
        """The numbers of the only one as (rows, columns). Raises ValueError where there are more or fewer."""
        (numbers,), heads = self.numbers(), self.heads()
        return numbers.reshape((int(heads.rows[0]), int(heads.columns[0])), order="F")

    def cells(self) -> Iterator["Matrices"]:
        """What the cells of each cell array hold, column after column. Raises ValueError for other classes."""
        heads = self.heads()
        _require_kinds(heads.kinds, (CELL,))
        for kind, first, end, rows, columns in zip(heads.kinds, *heads[3:], *heads[1:3], strict=True):
            yield self._run(int(first), int(end), int(rows) * int(columns) if kind else 0)

    def records(self, columns: Sequence[str], needed: Sequence[str]) -> Iterator[dict[str, "Matrices"]]:
        """Each struct array as ``{field: its values}``; a cell array with these ``columns`` reads alike.

        Raises ValueError where one of ``needed`` is not there.
        """
        heads = self.heads()
        _require_kinds(heads.kinds, (STRUCT, CELL))
        for row, kind in enumerate(heads.kinds.tolist()):
            at, end = int(heads.contents[row]), int(heads.ends[row])
            count = int(heads.rows[row]) * int(heads.columns[row])
            names = list(columns)
            if kind == STRUCT:
                names, at = self._field_names(at)
                starts = self._run(at, end, count * len(names)).starts.reshape(count, len(names))
            elif kind == CELL:
                names = names[: int(heads.columns[row])]
                starts = self._run(at, end, count).starts.reshape(int(heads.columns[row]), -1).T
            else:
                starts = np.empty((0, len(names)), np.int64)
            if missing := [name for name in needed if name not in names]:
                raise ValueError(f"it lacks {', '.join(missing)}; found {', '.join(names) or 'no fields'}")
            yield {name: Matrices(self.words, starts[:, column]) for column, name in enumerate(names)}

    def _data(self, heads: Heads, kinds: Sequence[int]) -> tuple[Places, Places, Places]:
        """Type, first byte and number of bytes of the data of each; all 0 for an empty one."""
        _require_kinds(heads.kinds, kinds)
        found = np.zeros((3, len(self.starts)), np.int64)
        there = heads.kinds > 0
        found[:, there] = _element(self.words, heads.contents[there])[:3]
        if (found[1] + found[2] > heads.ends * 4)[there].any():
            raise ValueError("data go on after the end of their matrix")
        return found[0], found[1], found[2]

    def _field_names(self, at: int) -> tuple[list[str], int]:
        """Names of a struct array's fields, and the word after them."""
        _, first, _, at = (int(part[0]) for part in _element(self.words, np.array([at])))
        width = int(self.words[first // 4])
        _, first, size, at = (int(part[0]) for part in _element(self.words, np.array([at])))
        return split_names(self.words.data.cast("B")[first : first + size].tobytes(), width), at

    def _run(self, at: int, end: int, count: int) -> "Matrices":
        """``count`` matrices that follow one another from the word ``at``."""
        if count > (end - at) // 2:
            raise ValueError(f"it claims {count} elements, more than fit")
        words, starts = self.words.data, array("q")
        for _ in range(count):
            if words[at] != MATRIX:
                raise ValueError("an element is no matrix")
            starts.append(at)
            at += 2 + (words[at + 1] + 7) // 8 * 2
        if at > end:
            raise ValueError("a matrix goes on after the end of what holds it")
        return Matrices(self.words, np.frombuffer(starts, np.int64))


def split_names(text: bytes, width: int) -> list[str]:
    """Names of fields, ``width`` bytes each."""
    if not 0 < width <= LONGEST_NAME:
        raise ValueError("a struct array's fields have no readable names")
    return [text[at : at + width].split(b"\0")[0].decode("ascii") for at in range(0, len(text), width)]


def _look(words: Words, at: Places) -> Places:
    return words[at].astype(np.int64)


def _element(words: Words, at: Places) -> tuple[Places, Places, Places, Places]:
    """Type, first byte, bytes, and first word after the (n,) elements at the words ``at``."""
    tags = _look(words, at)
    small = tags >> 16 > 0
    sizes = np.where(small, tags >> 16, _look(words, at + 1))
    after = at + 2 + np.where(small, 0, (sizes + 7) // 8 * 2)
    return np.where(small, tags & 0xFFFF, tags), at * 4 + np.where(small, 4, 8), sizes, after


def _require_kinds(kinds: Places, wanted: Sequence[int]) -> None:
    """Raise ValueError for a matrix that is neither empty nor of the ``wanted`` classes."""
    others = [kind for kind in set(kinds.tolist()) if kind and kind not in wanted]
    if others:
        found = CLASSES.get(others[0], f"of class {others[0]}")
        raise ValueError(f"a matrix is {found}, expected {CLASSES[wanted[0]]}")

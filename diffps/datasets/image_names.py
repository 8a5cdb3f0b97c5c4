"""Which image a name in somebody's annotation file means: other machines' paths, slashes and spellings."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import unquote

from diffps.datasets.findings import Findings
from diffps.names import normal

OTHER_PATH = "were found by the last parts of their path"
OTHER_SPELLING = "were found by a name that differs in letter case or accents' coding"
URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://[^/]*/|^[a-zA-Z]:(?=[\\/])")  # https://host/, C:
QUERY_PATH = re.compile(r"^.*\?d=")  # Label Studio: /data/local-files/?d=photos/a.jpg


class ImageNames:
    """The images that are there, by name; ``present`` are paths below their folder, with slashes."""

    def __init__(self, present: Iterable[str]) -> None:
        self._exact: dict[str, str] = {}
        self._by_file: dict[str, list[str]] = defaultdict(list)
        for name in present:
            self._exact[normal(name)] = name
            self._by_file[normal(PurePosixPath(name).name).casefold()].append(name)

    def find(self, written: str, findings: Findings, at: str) -> str | None:
        """The image that is meant, or None. ``findings`` count what was not found under the very name.

        A path is the image's own, or has more folders in front than the image has, or fewer, or begins at the root of
        another machine. Raises ValueError where several images fit.
        """
        for text in dict.fromkeys((written, unquote(written, errors="replace"))):
            parts, rooted = _parts(text)
            if not parts:
                continue
            name = self._exact.get("/".join(parts))
            if name is not None:
                return name
            fitting = [name for name in self._by_file[parts[-1].casefold()] if _fits(normal(name), parts, rooted)]
            longest = max((_shared(normal(name), parts) for name in fitting), default=0)
            fitting = [name for name in fitting if _shared(normal(name), parts) == longest]
            if len(fitting) > 1:
                raise ValueError(f"image {written} may be {fitting[0]} or {fitting[1]}; write its whole path")
            if fitting:
                same = normal(fitting[0]).casefold() == "/".join(parts).casefold()
                findings.add("repaired", OTHER_SPELLING if same else OTHER_PATH, "names of images", f"{at}: {written}")
                return fitting[0]
        return None


def _parts(text: str) -> tuple[list[str], bool]:
    """Folders and file of a path as anybody writes it, and whether they begin at a root that is not ours."""
    path, rooted = QUERY_PATH.subn("", normal(text))
    path, cut = URL.subn("", path)
    path = path.replace("\\", "/")
    rooted += cut + path.startswith("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            rooted, parts = 1, []
        elif part not in ("", "."):
            parts.append(part)
    return parts, bool(rooted)


def _fits(name: str, parts: list[str], rooted: bool) -> bool:
    """Whether a path and an image agree in all folders that both have; in the file alone where the path is rooted."""
    return rooted or _shared(name, parts) == min(len(parts), name.count("/") + 1)


def _shared(name: str, parts: list[str]) -> int:
    """How many last parts are the same."""
    count = 0
    for ours, theirs in zip(reversed(name.casefold().split("/")), reversed(parts), strict=False):
        if ours != theirs.casefold():
            break
        count += 1
    return count

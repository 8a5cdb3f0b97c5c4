"""Which image a name in somebody's annotation file means: other machines' paths, slashes and spellings."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from urllib.parse import unquote

from diffps.datasets.discovery import Discovery
from diffps.datasets.files import summarise
from diffps.datasets.findings import Findings
from diffps.errors import DatasetError
from diffps.names import normal

OTHER_PATH = "were found by the last parts of their path"
OTHER_SPELLING = "were found by a name that differs in letter case or accents' coding"
HOST = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://[^/]*/")
DRIVE = re.compile(r"^[a-zA-Z]:(?=[\\/])")
LOCAL_FILES = re.compile(r"^.*\?d=")  # Label Studio: /data/local-files/?d=photos/a.jpg


class ImageNames:
    """The images that are there, by name; ``present`` are paths below their folder, with slashes."""

    def __init__(self, present: Iterable[str]) -> None:
        self._exact: dict[str, str] = {}
        self._by_file: dict[str, list[str]] = defaultdict(list)
        self._written: dict[str, list[str]] = {}  # the longest path that an image was found by
        for name in present:
            self._exact[normal(name)] = name
            self._by_file[normal(PurePosixPath(name).name).casefold()].append(name)

    def find(self, written: str, findings: Findings, at: str, folder: str = "") -> str | None:
        """The image that is meant, or None. ``findings`` count what was not found under the very name.

        A path is the image's own, below ``folder`` or not, or has more folders in front than the image has, or fewer,
        or begins at the root of another machine. Raises ValueError where several images fit, and where two paths that
        cannot be one file's lead to one image.
        """
        # A backslash may be part of a name, and is of those that hold other bytes than UTF-8 as the index writes them.
        below = f"{folder}/" if folder else ""
        for text in (below + written, written):
            if text.startswith(below) and (literal := self._exact.get(normal(text))):
                self._remember(literal, normal(literal).split("/"), written)
                return literal
        for text in dict.fromkeys((written, unquote(written, errors="replace"))):
            parts, rooted = _parts(text)
            if not parts:
                continue
            if folder and not rooted:
                parts = [*folder.split("/"), *parts]
            exact = self._exact.get("/".join(parts))
            found = exact or self._by_end(written, parts, rooted)
            if found is None:
                continue
            self._remember(found, parts, written)
            if exact is None:
                same = normal(found).casefold() == "/".join(parts).casefold()
                findings.add("repaired", OTHER_SPELLING if same else OTHER_PATH, "names of images", f"{at}: {written}")
            return found
        return None

    def _by_end(self, written: str, parts: list[str], rooted: bool) -> str | None:
        """The image whose path agrees in most last parts; in all that both have, unless the path is rooted."""
        shared = {name: _shared(normal(name), parts) for name in self._by_file[parts[-1].casefold()]}
        fitting = {
            name: count for name, count in shared.items() if rooted or count == min(len(parts), name.count("/") + 1)
        }
        longest = [name for name, count in fitting.items() if count == max(fitting.values())]
        if len(longest) > 1:
            raise ValueError(f"image {written} may be {longest[0]} or {longest[1]}; write its whole path")
        return longest[0] if longest else None

    def _remember(self, found: str, parts: list[str], written: str) -> None:
        before = self._written.setdefault(found, parts)
        if _shared("/".join(before), parts) < min(len(before), len(parts)):
            raise ValueError(f"images {'/'.join(before)} and {written} would both be {found}")
        if len(parts) > len(before):
            self._written[found] = parts


def missing_images(dataset: str, missing: Mapping[str, str], listed: int, found: Discovery) -> DatasetError:
    """The error for images that are ``missing`` {name: where it is written} of those ``listed``."""
    name, at = next(iter(missing.items()))
    why = found.why_not(name)
    return DatasetError(
        f"{dataset}: {len(missing)} of {listed} images missing in {found.root}: {summarise(missing, 3)} "
        f"(first: {at}{f'; {why}' if why else ''}); {len(found.images)} images found there: "
        f"{summarise(found.images, 3) or 'none'}"
    )


def _parts(text: str) -> tuple[list[str], bool]:
    """Folders and file of a path as anybody writes it, and whether they begin at a root that is not ours."""
    path, rooted = LOCAL_FILES.subn("", normal(text))
    path, hosts = HOST.subn("", path)
    path, drives = DRIVE.subn("", path.split("?")[0] if hosts else path)
    path = path.replace("\\", "/")
    rooted += hosts + drives + path.startswith("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            rooted, parts = 1, []
        elif part not in ("", "."):
            parts.append(part)
    return parts, bool(rooted)


def _shared(name: str, parts: list[str]) -> int:
    """How many last parts are the same, letter case aside."""
    count = 0
    for ours, theirs in zip(reversed(name.casefold().split("/")), reversed(parts), strict=False):
        if ours != theirs.casefold():
            break
        count += 1
    return count

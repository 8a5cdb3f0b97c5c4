"""Which images lie in a folder: every file is opened to see, and what is left out is counted by reason."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from diffps.datasets.findings import Findings, Kind
from diffps.errors import DatasetError, ImageError, PixelLimitError
from diffps.images.contents import HEAD, signature
from diffps.images.opening import SUFFIXES, image_file, kind_of, open_image
from diffps.names import Names, to_text

# Kept by systems and programs for themselves; hidden ones need no line here.
PROGRAM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
)
PROGRAM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})

HIDDEN = "are hidden"
PROGRAMS = "belong to a program or the system (thumbnails, trash, checkpoints)"
OTHER = "are no images"
BROKEN = "are named or begin like images, but cannot be opened as one"
SPECIAL = "are no regular files (FIFOs, sockets, devices)"
LOST = "are links that lead nowhere"
AGAIN = "are links to folders that were searched already"
DENIED = "cannot be read (no permission, or the disk fails)"
# What a report makes of each.
REASONS: Mapping[str, Kind] = {
    HIDDEN: "fine",
    PROGRAMS: "fine",
    OTHER: "fine",
    AGAIN: "fine",
    SPECIAL: "doubtful",
    LOST: "refused",
    BROKEN: "refused",
    DENIED: "refused",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Discovery:
    """The images below ``root``: ``images`` are their paths below it, sorted, as text (:mod:`diffps.names`).

    ``left_out``: by reason (a key of REASONS) the paths of all else; a folder stands for what it holds. ``broken``: of
    paths that are left out as BROKEN or DENIED, why. ``links``: how many of the images are links to files.
    """

    root: Path
    images: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    broken: Mapping[str, str]
    links: int

    def note(self, findings: Findings) -> None:
        """Add what was found to a report, as counts of files; names that look alike as well."""
        findings.seen("files", len(self.images) + sum(map(len, self.left_out.values())))
        findings.add("fine", "are images", "files", count=len(self.images))
        findings.add("fine", "are images by way of a link", "files", count=self.links)
        for reason, kind in REASONS.items():
            paths = self.left_out.get(reason, ())
            example = self.broken.get(paths[0], paths[0]) if paths else ""
            findings.add(kind, reason, "files", example, count=len(paths))
        for group in Names(self.images).alike_but_for_case():
            findings.add(
                "doubtful", "have names that differ in case only", "files", " and ".join(group), count=len(group)
            )

    def why_not(self, name: str) -> str | None:
        """Why a path below the root is not among the images though it lies there; None where it does not."""
        for reason, paths in self.left_out.items():
            if name in paths or any(name.startswith(path + "/") for path in paths):
                return self.broken.get(name, f"files that {reason} are left out")
        return None


def find_images(root: Path, threads: int = 8) -> Discovery:
    """Look at everything below ``root``, which may be a link itself; ``threads`` files are opened at a time.

    An image is a regular file, or a link to one, that Pillow opens as one of the formats of
    :data:`diffps.images.opening.FORMATS`, whatever its name ends in. Links to folders are followed, each folder is
    searched once. Raises DatasetError where ``root`` is no readable folder, or holds names that look identical.
    """
    left_out: dict[str, list[str]] = {}
    candidates = list(_walk(root, left_out))
    with ThreadPoolExecutor(threads) as pool:
        verdicts = list(pool.map(_look, (path for path, _ in candidates)))
    images, broken, links = [], {}, 0
    for (path, linked), verdict in zip(candidates, verdicts, strict=True):
        name = _below(root, path)
        if verdict is None:
            images.append(name)
            links += linked
        else:
            reason, why = verdict
            left_out.setdefault(reason, []).append(name)
            if why:
                broken[name] = why.replace(str(path), name)
    for group in Names(images).alike():
        raise DatasetError(
            f"{root}: {' and '.join(map(ascii, group))} look identical, but are written with different characters; "
            "rename or drop one"
        )
    return Discovery(
        root=root,
        images=tuple(sorted(images)),
        left_out={reason: tuple(sorted(left_out[reason])) for reason in REASONS if reason in left_out},
        broken=broken,
        links=links,
    )


def _walk(root: Path, left_out: dict[str, list[str]]) -> Iterator[tuple[Path, bool]]:
    """(file, whether it is a link) of all that may be an image; the rest goes to ``left_out``.

    Links to folders come last, so that what lies in the tree itself is found under its own name.
    """
    folders, links = [root], list[Path]()
    searched: set[tuple[int, int]] = set()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in searched:
                left_out.setdefault(AGAIN, []).append(_below(root, folder))
                continue
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise DatasetError(f"{root}: no folder that can be read ({error.strerror})") from error
            left_out.setdefault(DENIED, []).append(_below(root, folder))
            continue
        searched.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = Path(entry.path)
            if (reason := _reason(entry)) is not None:
                left_out.setdefault(reason, []).append(_below(root, path))
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(path)
            else:
                yield path, entry.is_symlink()


def _reason(entry: os.DirEntry[str]) -> str | None:
    """Why something is left out without opening it."""
    name = entry.name.lower()
    if name.startswith("."):
        return HIDDEN
    if name in PROGRAM_FOLDERS or name in PROGRAM_FILES:
        return PROGRAMS
    try:
        kind = kind_of(entry.stat().st_mode)
    except OSError:
        return LOST if entry.is_symlink() else DENIED
    return None if kind in (None, "a folder") else SPECIAL


def _look(path: Path) -> tuple[str, str] | None:
    """None for an image, else the reason and, where it ought to be one, why it is not."""
    head = b""
    try:
        with image_file(path) as file:
            head = file.read(HEAD)
            file.seek(0)
            open_image(file)
    except PixelLimitError:
        return None  # whoever measures it says so
    except ImageError as error:
        if getattr(error.__cause__, "errno", None) is not None:  # the system's, not Pillow's
            return DENIED, str(error)
        return (BROKEN, str(error)) if path.suffix.lower() in SUFFIXES or signature(head) else (OTHER, "")
    return None


def _below(root: Path, path: Path) -> str:
    return to_text(path.relative_to(root).as_posix())

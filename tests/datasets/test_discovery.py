"""What lies in a folder: every image is found whatever it is called, and everything else is counted by reason."""

import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffps.datasets import discovery
from diffps.datasets.discovery import BROKEN, Discovery, find_images
from diffps.datasets.findings import Findings
from diffps.errors import DatasetError
from diffps.images import load_image
from diffps.names import from_text, normal


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, "PNG")
    return path


def test_images_are_found_by_opening_them(tmp_path: Path) -> None:
    for name in ("a.png", "b.jfif", "c.JPG", "d", "deep/er/e.dat", "f.csv"):
        image(tmp_path / name)
    (tmp_path / "persons.csv").write_text("split,image\n")
    (tmp_path / "notes.md").write_text("# notes\n")
    found = find_images(tmp_path)
    assert found.images == ("a.png", "b.jfif", "c.JPG", "d", "deep/er/e.dat", "f.csv")
    assert found.left_out == {"are no images": ("notes.md", "persons.csv")}


HIDDEN = (".hidden.png", "._a.png", ".DS_Store", ".ipynb_checkpoints", ".Trash-1000", ".git")
PROGRAMS = ("Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found")


def test_what_programs_keep_is_left_out_by_reason(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    for name in (*HIDDEN, *PROGRAMS):
        path = tmp_path / name
        image(path if "." in name[1:] and name != "$RECYCLE.BIN" else path / "x.png")
    found = find_images(tmp_path)
    assert found.images == ("a.png",)
    assert found.left_out == {
        "are hidden": tuple(sorted(HIDDEN)),
        "belong to a program or the system (thumbnails, trash, checkpoints)": tuple(sorted(PROGRAMS)),
    }
    assert "hidden" in (found.why_not(".git/x.png") or "")
    assert found.why_not("nowhere.png") is None


def test_a_fifo_does_not_keep_it_waiting(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("/dev/zero")
    script = "import sys\nfrom pathlib import Path\nfrom diffps.datasets.discovery import find_images\n"
    script += "print(dict(find_images(Path(sys.argv[1])).left_out))"
    command = [sys.executable, "-c", script, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "{'are no regular files (FIFOs, sockets, devices)': ('b.png', 'c.png')}"


def test_links_to_files_are_followed_and_counted(tmp_path: Path) -> None:
    outside = image(tmp_path / "store" / "1f3a")
    root = tmp_path / "images"
    image(root / "a.png")
    (root / "b.png").symlink_to(outside)
    (root / "c.png").symlink_to("nowhere.png")
    found = find_images(root)
    assert found.images == ("a.png", "b.png")
    assert found.links == 1
    assert found.left_out == {"are links that lead nowhere": ("c.png",)}


def test_links_to_folders_are_followed_once_under_the_name_in_the_tree(tmp_path: Path) -> None:
    elsewhere = image(tmp_path / "elsewhere" / "x.png").parent
    root = tmp_path / "images"
    image(root / "b" / "y.png")
    (root / "a").symlink_to(root / "b")  # sorted before it, and still not its name
    (root / "b" / "up").symlink_to(root)
    (root / "other").symlink_to(elsewhere)
    found = find_images(root)
    assert found.images == ("b/y.png", "other/x.png")
    assert found.left_out == {"are links to folders that were searched already": ("a", "b/up")}
    (tmp_path / "linked").symlink_to(root)
    assert find_images(tmp_path / "linked").images == found.images


def test_of_links_to_one_folder_the_first_names_its_images(tmp_path: Path) -> None:
    one, two = (image(tmp_path / name / "x.png").parent for name in ("one", "two"))
    root = tmp_path / "images"
    root.mkdir()
    for name, folder in (("p", one), ("q", two), ("r", one), ("s", two)):
        (root / name).symlink_to(folder)
    found = find_images(root)
    assert found.images == ("p/x.png", "q/x.png")
    assert found.left_out == {discovery.AGAIN: ("r", "s")}
    assert found.links == 0


BROKEN_FILES = {
    "empty.jpg": b"",
    "page.jpg": b"<!DOCTYPE html><html>",
    "pointer.png": b"version https://git-lfs.github.com/spec/v1\n",
    "noname": b"\x89PNG\r\n\x1a\n" + bytes(20),
}


def test_what_ought_to_be_an_image_is_refused_by_name(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    for name, data in BROKEN_FILES.items():
        (tmp_path / name).write_bytes(data)
    found = find_images(tmp_path)
    assert found.left_out == {BROKEN: tuple(sorted(BROKEN_FILES))}
    assert "the file is empty" in found.broken["empty.jpg"]
    assert "an HTML page" in (found.why_not("page.jpg") or "")
    assert str(tmp_path) not in "".join(found.broken.values())
    findings = Findings()
    found.note(findings)
    (refused,) = (finding for finding in findings.records() if finding.kind == "refused")
    assert (refused.count, refused.total) == (4, 5)
    assert refused.example.startswith("empty.jpg: not a readable image (the file is empty)")


def test_what_may_not_be_read_is_counted() -> None:
    """By somebody who may not read everything, as root may."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        image(folder / "a.png")
        image(folder / "b.png").chmod(0)
        (folder / "c").mkdir(mode=0)
        try:
            if user == 0:
                os.seteuid(65534)
            found = find_images(folder)
        finally:
            os.seteuid(user)
    assert found.left_out == {"cannot be read (no permission, or the disk fails)": ("b.png", "c")}
    assert found.broken == {"b.png": "b.png: no readable file (Permission denied)"}


def test_an_image_above_the_pixel_limit_is_an_image(tmp_path: Path) -> None:
    data = image(tmp_path / "a.png").read_bytes()
    head = b"IHDR" + b"\0\1\0\0\0\1\0\0" + data[24:29]
    (tmp_path / "a.png").write_bytes(data[:12] + head + zlib.crc32(head).to_bytes(4, "big") + data[33:])
    assert find_images(tmp_path).images == ("a.png",)


def test_names_of_any_bytes_are_kept_and_lead_back_to_the_file(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    image(tmp_path / name)
    image(tmp_path / r"back\xe9slash.png")
    found = find_images(tmp_path)
    assert found.images == (r"back\x5cxe9slash.png", r"caf\xe9.png")
    for text in found.images:
        assert text.encode("utf-8")
        assert load_image(tmp_path / from_text(text)).shape == (4, 4, 3)


def test_names_that_look_identical_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "caf\u00e9.png")
    image(tmp_path / "cafe\u0301.png")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system takes them for one")
    with pytest.raises(DatasetError, match="look identical, but are written with different characters") as caught:
        find_images(tmp_path)
    assert r"'cafe\u0301.png'" in str(caught.value)


def test_names_that_differ_in_case_only_are_doubtful(tmp_path: Path) -> None:
    for name in ("a.png", "A.PNG", "b.png"):
        image(tmp_path / name)
    if len(list(tmp_path.iterdir())) == 2:
        pytest.skip("this file system takes them for one")
    findings = Findings()
    find_images(tmp_path).note(findings)
    (doubtful,) = (finding for finding in findings.records() if finding.kind == "doubtful")
    assert (doubtful.count, doubtful.total, doubtful.example) == (2, 3, "A.PNG and a.png")


def test_a_folder_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere: no folder that can be read \(No such file or directory\)"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="Not a directory"):
        find_images(image(tmp_path / "a.png"))


def test_everything_in_a_folder_is_counted_once(tmp_path: Path) -> None:
    names = ("a.png", "b/c.png", "readme.txt", ".x", "empty.jpg")
    for name in names:
        image(tmp_path / name) if name.endswith(".png") else (tmp_path / name).touch()
    found: Discovery = find_images(tmp_path)
    counted = [*found.images, *(path for paths in found.left_out.values() for path in paths)]
    assert sorted(counted) == sorted(names)
    findings = Findings()
    found.note(findings)
    assert {finding.total for finding in findings.records()} == {5}


def test_what_was_found_is_told_by_kind(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for name in ("a.png", "b/c.png", "Thumbs.db", ".x"):
        image(root / name)
    (root / "l.png").symlink_to(root / "a.png")
    (root / "m.png").symlink_to("nowhere")
    (root / "n").symlink_to(root / "b")
    os.mkfifo(root / "p")
    for name in ("q.txt", "r.txt", "s.jpg"):
        (root / name).write_text("hello")
    found = find_images(root)
    findings = Findings()
    found.note(findings)
    assert found.links == 1
    assert [(f.kind, f.count, f.total, f.reason, f.example) for f in findings.records()] == [
        ("fine", 3, 11, "are images", ""),
        ("fine", 1, 11, "are images by way of a link", ""),
        ("fine", 1, 11, discovery.HIDDEN, ".x"),
        ("fine", 1, 11, discovery.PROGRAMS, "Thumbs.db"),
        ("fine", 2, 11, discovery.OTHER, "q.txt"),
        ("fine", 1, 11, discovery.AGAIN, "n"),
        ("doubtful", 1, 11, discovery.SPECIAL, "p"),
        ("refused", 1, 11, discovery.LOST, "m.png"),
        ("refused", 1, 11, BROKEN, found.broken["s.jpg"]),
    ]
    assert found.why_not("q.txt") == "files that are no images are left out"
    assert found.why_not("n/c.png") == "files that are links to folders that were searched already are left out"
    assert found.why_not("q.txt2") is None
    assert found.why_not("s.jpg") == found.broken["s.jpg"]


def test_a_file_is_broken_for_its_name_or_for_how_it_begins(tmp_path: Path) -> None:
    (tmp_path / "a.PNG").write_bytes(b"hello")
    (tmp_path / "b.txt").write_bytes(b"GIF89a" + bytes(3))
    (tmp_path / "c.txt").write_bytes(b"hello")
    found = find_images(tmp_path, threads=1)
    assert found.left_out == {BROKEN: ("a.PNG", "b.txt"), discovery.OTHER: ("c.txt",)}
    assert list(found.broken) == ["a.PNG", "b.txt"]


FOLDERS = st.sampled_from(["", "a", "B c", "\u56fe", ".git", "__MACOSX", "x.png"]).map(lambda name: name and f"{name}/")
STEMS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="/\\.A"), min_size=1, max_size=6
)
KINDS = st.sampled_from(["image", "text", "empty"])
FILES = st.dictionaries(
    st.tuples(
        FOLDERS, FOLDERS, st.sampled_from(["", "."]), STEMS, st.sampled_from(["", ".png", ".JPG", ".txt", ".db"])
    ).map("".join),
    KINDS,
    max_size=6,
)


@settings(max_examples=40)
@given(FILES)
def test_every_file_is_an_image_or_left_out_for_what_it_is(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, str]
) -> None:
    root = tmp_path_factory.mktemp("images")
    drawn = image(root.with_name(f"{root.name}.png")).read_bytes()
    content = {"image": drawn, "text": b"hello", "empty": b""}
    written = {}
    for name, kind in files.items():
        path = root / name
        if not any(other.is_file() for other in path.parents) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content[kind])
            written[name] = kind

    def fate(name: str, kind: str) -> tuple[str, str]:
        """What is left out with it, itself or a folder above it, and why; "" for an image."""
        parts = name.split("/")
        for depth, part in enumerate(parts, 1):
            path = "/".join(parts[:depth])
            if part.startswith("."):
                return discovery.HIDDEN, path
            if part == "__MACOSX":
                return discovery.PROGRAMS, path
        if kind == "image":
            return "", name
        return (BROKEN if name.endswith((".png", ".JPG")) else discovery.OTHER), name

    fates = {fate(name, kind) for name, kind in written.items()}
    if len({normal(path) for why, path in fates if not why}) < len([path for why, path in fates if not why]):
        with pytest.raises(DatasetError, match="look identical"):
            find_images(root)
        return
    found = find_images(root)
    assert found.images == tuple(sorted(path for why, path in fates if not why))
    assert {(why, path) for why, paths in found.left_out.items() for path in paths} == {
        (why, path) for why, path in fates if why
    }
    assert all((root / from_text(name)).read_bytes() == drawn for name in found.images)
    assert all(found.why_not(path) for why, path in fates if why)

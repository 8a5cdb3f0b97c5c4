"""Which image a name means that somebody else's program wrote."""

from pathlib import Path

import pytest

from diffps.datasets.discovery import Discovery
from diffps.datasets.findings import Findings
from diffps.datasets.image_names import OTHER_PATH, OTHER_SPELLING, ImageNames, missing_images

PRESENT = ("a.jpg", "x/b.jpg", "y/b.jpg", "x/z/c.jpg", "d e.jpg", "f%20g.jpg")


def find(written: str, folder: str = "", present: tuple[str, ...] = PRESENT) -> tuple[str | None, list[str]]:
    """The image, and what was said of how it was found."""
    findings = Findings()
    found = ImageNames(present).find(written, findings, "row 1", folder)
    assert all(f.example == f"row 1: {written}" and f.of == "names of images" for f in findings.records())
    return found, [finding.reason for finding in findings.records()]


@pytest.mark.parametrize(
    ("written", "folder", "image", "said"),
    [
        ("a.jpg", "", "a.jpg", None),
        ("./a.jpg", "", "a.jpg", None),
        ("x/./b.jpg", "", "x/b.jpg", None),
        ("b.jpg", "x", "x/b.jpg", None),
        ("x/b.jpg", "x", "x/b.jpg", None),
        ("y/b.jpg", "x", "y/b.jpg", OTHER_PATH),
        ("q/b.jpg", "x", None, None),
        ("A.JPG", "", "a.jpg", OTHER_SPELLING),
        ("images/a.jpg", "", "a.jpg", OTHER_PATH),
        ("c.jpg", "", "x/z/c.jpg", OTHER_PATH),
        ("z/c.jpg", "", "x/z/c.jpg", OTHER_PATH),
        ("q/c.jpg", "", None, None),
        ("x/c.jpg", "", None, None),
        ("/q/c.jpg", "", "x/z/c.jpg", OTHER_PATH),
        ("/home/x/b.jpg", "", "x/b.jpg", OTHER_PATH),
        (r"C:\data\X\b.jpg", "", "x/b.jpg", OTHER_PATH),
        (r"c:/x/b.jpg", "", "x/b.jpg", None),
        ("https://host:80/x/b.jpg?size=2", "", "x/b.jpg", None),
        ("a.jpg?size=2", "", None, None),
        ("/data/local-files/?d=x/b.jpg", "", "x/b.jpg", None),
        ("../a.jpg", "", "a.jpg", None),
        ("x/../../q/y/b.jpg", "", "y/b.jpg", OTHER_PATH),
        ("d%20e.jpg", "", "d e.jpg", None),
        ("f%20g.jpg", "", "f%20g.jpg", None),
        ("", "", None, None),
        ("/", "", None, None),
        ("..", "", None, None),
        ("nothing.jpg", "", None, None),
    ],
)
def test_images_and_how_they_were_found(written: str, folder: str, image: str | None, said: str | None) -> None:
    assert find(written, folder) == (image, [said] if said else [])


def test_the_image_that_agrees_in_most_folders_is_meant() -> None:
    present = ("m/x/b.jpg", "n/x/b.jpg", "n/y/b.jpg")
    assert find("/home/n/x/b.jpg", present=present)[0] == "n/x/b.jpg"
    assert find("/home/q/y/b.jpg", present=present)[0] == "n/y/b.jpg"
    message = r"^image /home/q/x/b.jpg may be m/x/b.jpg or n/x/b.jpg; write its whole path$"
    with pytest.raises(ValueError, match=message):
        find("/home/q/x/b.jpg", present=present)


def test_paths_of_one_image_agree_as_far_as_both_go() -> None:
    names = ImageNames(["b.jpg"])
    for written in ("b.jpg", "x/b.jpg", "/home/X/b.jpg", "./b.jpg", "home/x/b.jpg"):
        assert names.find(written, Findings(), "") == "b.jpg"
    for written in ("y/b.jpg", "/media/x/b.jpg"):
        with pytest.raises(ValueError, match=rf"^images /?home/[Xx]/b.jpg and {written} would both be b.jpg$"):
            names.find(written, Findings(), "")


def test_images_that_are_missing_are_counted_with_the_first_and_why() -> None:
    found = Discovery(
        root=Path("images"),
        images=("a.jpg", "b.jpg", "c.jpg", "d.jpg"),
        left_out={"are hidden": (".x.jpg",)},
        broken={},
        links=0,
    )
    error = missing_images("coco", {".x.jpg": "row 7", "y": "row 8", "z": "row 9", "w": "row 10"}, 9, found)
    assert str(error) == (
        "coco: 4 of 9 images missing in images: .x.jpg, y, z and 1 more (first: row 7; files that are hidden are left "
        "out); 4 images found there: a.jpg, b.jpg, c.jpg and 1 more"
    )
    none = Discovery(root=Path("images"), images=(), left_out={}, broken={}, links=0)
    assert str(missing_images("folder", {"y": "row 8"}, 1, none)) == (
        "folder: 1 of 1 images missing in images: y (first: row 8); 0 images found there: none"
    )

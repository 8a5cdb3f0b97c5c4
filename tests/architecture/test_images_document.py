"""Every row of the tables about images names a test that is there, and one module alone opens image files."""

import ast
import re

from tests.architecture.repository import ROOT

DOCUMENT = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
OPENS = "diffps/images/opening.py"
OWN = "diffps/pretraining/scenes.py"  # JPEG bytes that it has just drawn, in memory


def test_every_row_names_a_test_that_is_there() -> None:
    count = 0
    for file, table in re.findall(r"`(tests/[\w/]+\.py)`:\n\n((?:\|.*\n)+)", DOCUMENT):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        for row in table.splitlines()[2:]:
            match = re.fullmatch(r"\|.*\| `(test_\w+)` \|", row)
            assert match, row
            assert match[1] in there, f"{file}::{match[1]}"
            count += 1
    assert count == DOCUMENT.count("| `test_") > 40


def test_one_module_opens_image_files_and_nobody_else_turns_them() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("diffps", "cache", "stages", "pipeline")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\b(Image|Pil)\.open\(|exif_transpose|cv2\.imread", path.read_text(encoding="utf-8"))
    }
    assert found == {OPENS, OWN}

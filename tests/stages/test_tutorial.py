"""The commands of docs/find-a-person.md, one after the other, as somebody types them."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffps.errors import DiffPSError
from pipeline.cli import app
from tests.world import FLOAT16, LIGHT, ROOT, write_params

TUTORIAL = (ROOT / "docs" / "find-a-person.md").read_text(encoding="utf-8")
# What is refused here, and said to be in the text; a head of the tests knows four people.
REFUSED = {
    "diffps search data/streets/frames/c1s2_000001.jpg": "say which with --person",
    "diffps head calibrate --set train.holdout=0.2": "was trained on other features|needed: hold out more|nobody|none",
}
ENDLESS, LONG = "--serve", "diffps train"


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", TUTORIAL, re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("diffps ")]
    return [line for line in lines if ENDLESS not in line and not line.startswith(LONG)]


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run(searchable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    shutil.copytree(searchable, project)
    monkeypatch.chdir(project)
    write_params(project, {**LIGHT, "extract": {**LIGHT["extract"], **FLOAT16}})
    assert len(commands()) > 6
    for command in commands():
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        said = next((text for line, text in REFUSED.items() if line == command), None)
        if said is None:
            assert result.exit_code == 0, f"{command}: {result.exception!r}"
        else:
            assert isinstance(result.exception, DiffPSError), f"{command}: {result.exception!r}"
            assert re.search(said, str(result.exception))
    left = {path.name for path in Path("results/search").iterdir()}
    assert {"people.jpg", "index.html", "hits.csv", "hits.coco.json"} <= left
    assert Path("fetched-head/config.json").is_file()

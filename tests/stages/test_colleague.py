"""A colleague's store, which one may read and not write: everything but adding to it works."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.world import FLOAT16, ROOT, Project, files_below

COLLEAGUE = 65534
DROP_CAPABILITY = 24  # PR_CAPBSET_DROP
STAGES = """
import os, sys
from importlib import import_module
from pathlib import Path
from pipeline.cli import told_to_user
from pipeline.config import load_params
from stages import verify
from stages.job import QuietJob

params, runtime = load_params(Path("params.yaml"))
assert not os.access(runtime.store, os.W_OK), "the store can be written, so this shows nothing"
for name in ("extract", "train", "evaluate", "sweep", "report"):
    import_module(f"stages.{name}").run(params, runtime, QuietJob())
verify.run(Path(params.evaluate.head), runtime, QuietJob())
more = load_params(Path("params.yaml"), ["extract.timesteps=[0,10]"])[0]
try:
    import_module("stages.extract").run(more, runtime, QuietJob())
except Exception as error:
    print(told_to_user(error))
"""


def powerless() -> None:
    """Before a child of root starts: files of others can be written only where their mode says so."""
    for capability in range(64):
        ctypes.CDLL(None).prctl(DROP_CAPABILITY, capability, 0, 0, 0)


def is_root() -> bool:
    return os.geteuid() == 0


def give_away(folder: Path, root: bool) -> None:
    """To another user, or where one may not, to nobody who writes."""
    for path in (*folder.rglob("*"), folder):
        if root:
            os.chown(path, COLLEAGUE, COLLEAGUE)
        path.chmod(0o755 if path.is_dir() and root else 0o555 if path.is_dir() else 0o444)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's users and capabilities")
def test_a_store_of_somebody_else_serves_every_stage(
    extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, store, root = (
        Project.copy_of(extracted, tmp_path / "mine", monkeypatch),
        tmp_path / "theirs",
        not os.geteuid(),
    )
    Path("data/features").rename(store)
    Path("one.yaml").write_text("variants: {one: {}}")
    project.change(extract=FLOAT16, sweep={"file": "one.yaml"}, runtime={"store": str(store)})
    give_away(store, root)
    before = files_below(store)
    done = subprocess.run(
        [sys.executable, "-c", STAGES],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=powerless if root else None,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        assert done.returncode == 0, done.stderr[-3000:]
        told = done.stdout.strip()
        assert str(store) in told
        assert "\n" not in told
        assert "has no right to" in told
        assert files_below(store) == before
        assert {path.name for path in Path("results").iterdir()} >= {"train", "evaluate", "sweep", "report"}
    finally:
        for path in (store, *store.rglob("*")):  # so that the folder can be cleared away
            path.chmod(0o755)

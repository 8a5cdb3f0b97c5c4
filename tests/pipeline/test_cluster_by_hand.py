"""The commands of docs/cluster.md, as one types them in three terminals."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.pipeline.project import Project
from tests.world import ROOT


@pytest.mark.slow
def test_a_scheduler_and_a_worker_started_by_hand(project: Project) -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/cluster.md").read_text(), re.S)
    *servers, command = [shlex.split(line) for line in block.splitlines()]
    assert [server[:2] for server in servers] == [["dask", "scheduler"], ["dask", "worker"]]
    before = {path: (project.root / path).read_bytes() for path in project.files("data/features/features.zarr")}
    shutil.rmtree(project.root / "data/features")
    project.run("diffps", "encode")
    # Any free ports: another cluster may run on this machine.
    own = {"scheduler": ["--port", "0", "--dashboard-address", ":0"], "worker": ["--dashboard-address", ":0"]}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", *server, *own[server[1]], "--host", "127.0.0.1"],
            cwd=project.root,
            env=project.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for server in servers
    ]
    try:
        for _ in range(600):
            if (project.root / "scheduler.json").exists():
                break
            running[0].poll()
            assert running[0].returncode is None
            subprocess.run(["sleep", "0.1"], check=True)
        project.run(*command)
    finally:
        for process in running:
            process.terminate()
            process.wait(30)
    found = {path: (project.root / path).read_bytes() for path in project.files("data/features/features.zarr")}
    assert found == before

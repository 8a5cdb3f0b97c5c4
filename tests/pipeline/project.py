"""A small project of its own, in which DVC and the commands run as they would for a user."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.world import ROOT, write_params

# dvc.yaml follows code as well.
CODE = ("diffps", "cache", "stages")


class Project:
    """A git repository with dvc.yaml, the code DVC follows, and small parameters."""

    def __init__(self, root: Path) -> None:
        self.root = root
        bin_folder = Path(sys.executable).parent
        self.environment = os.environ | {
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
        }
        # As on people's machines: Python writes bytecode beside the code that DVC follows.
        for name in ("DVC_ROOT", "PYTHONDONTWRITEBYTECODE"):
            self.environment.pop(name, None)

    @classmethod
    def create(cls, root: Path) -> "Project":
        root.mkdir(parents=True)
        for folder in CODE:
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
        shutil.copy(ROOT / "dvc.yaml", root)
        shutil.copy(ROOT / ".gitignore", root)
        shutil.copy(ROOT / ".dvcignore", root)
        (root / "data/streets").mkdir(parents=True)
        shutil.copy(ROOT / "data/streets/README.md", root / "data/streets")
        (root / ".dvc").mkdir()
        for name in ("config", ".gitignore"):
            shutil.copy(ROOT / ".dvc" / name, root / ".dvc")
        project = cls(root)
        project.params()
        project.run("git", "init", "-q")
        return project

    def commit(self) -> None:
        """All that git sees, as experiments and clones need it."""
        self.run("git", "add", ".")
        self.run(
            "git",
            "-c",
            "user.email=tester@localhost",
            "-c",
            "user.name=Tester",
            "commit",
            "-q",
            "--allow-empty",
            "-m",
            "All",
        )

    def clone(self, root: Path) -> "Project":
        """A colleague's clone of what was committed: code, dvc.yaml and dvc.lock, without data and results."""
        self.run("git", "clone", "-q", str(self.root), str(root))
        return Project(root)

    def params(self, changes: dict[str, Any] | None = None) -> None:
        """The tiny parameters, with ``changes``."""
        write_params(self.root, changes)

    def run(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False, timeout=500
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def repro(self) -> list[str]:
        """`dvc repro`; the stages that ran, in order."""
        lines = self.run("dvc", "repro").stdout.splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def experiment(self, *arguments: str) -> list[str]:
        """`dvc exp run`; the stages that ran, in order."""
        lines = self.run("dvc", "exp", "run", *arguments).stdout.splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def would_run(self) -> set[str]:
        """The stages whose parameters, code or inputs are not those of their last run."""
        return set(json.loads(self.run("dvc", "status", "--json").stdout))

    def files(self, folder: str) -> dict[str, tuple[int, int]]:
        """path -> (inode, time of change) of every file below ``folder``: unequal where a file was written anew."""
        found = {}
        for path in sorted((self.root / folder).rglob("*")):
            if path.is_file():
                stat = path.stat()
                found[str(path.relative_to(self.root))] = (stat.st_ino, stat.st_mtime_ns)
        return found

"""What pyproject.toml cannot say: a package knows the commit it was built from."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))
NAME = "pipeline/commit.txt"


def write_commit(folder: str) -> None:
    from pipeline.version import commit

    found, path = commit(), Path(folder) / NAME
    if found is not None and path.parent.is_dir():
        path.write_text(found + "\n")


class BuildWithCommit(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            write_commit(self.build_lib)


class SdistWithCommit(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        write_commit(base_dir)


setup(cmdclass={"build_py": BuildWithCommit, "sdist": SdistWithCommit})

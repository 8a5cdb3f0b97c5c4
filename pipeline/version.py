"""Which version this is, and of which commit."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def version_text() -> str:
    """ "diffps 0.1.0 (commit 1a2b3c4)"; "+" behind the commit where files were changed since."""
    try:
        number = version("diffps")
    except PackageNotFoundError:  # run from a folder without being installed
        number = "not installed"
    found = commit()
    return f"diffps {number}" + (f" (commit {found})" if found else "")


def commit() -> str | None:
    """Commit of the checkout this code lies in, or that a package was built from; None where neither is known."""
    root, built = Path(__file__).parents[1], Path(__file__).with_name("commit.txt")
    if built.is_file():
        return built.read_text(encoding="utf-8").strip()
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

"""A project of one's own in an empty folder: parameters, the pipeline for DVC, what git and DVC leave alone."""

from difflib import get_close_matches
from pathlib import Path

from diffps.errors import ConfigError

PRESETS = Path(__file__).parents[1] / "presets"  # beside the packages, in a checkout and once installed
# Where each file of presets/project goes.
FILES = {"pipeline.yaml": "dvc.yaml", "dvcignore": ".dvcignore", "gitignore": ".gitignore"}
PLACEHOLDER = """# Drawn streets

`diffps index` draws the demo's scenes here. DVC refuses an input that is not there, hence this file.
"""


def presets() -> list[str]:
    """Names of the params files that come with the program."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def init_project(preset: str, folder: Path) -> list[str]:
    """Write a project that begins with ``preset`` into ``folder``; the files written, relative to it.

    Raises ConfigError for an unknown preset, and where a file is there already with another content: nothing is
    written then.
    """
    if preset not in presets():
        near = get_close_matches(preset, presets(), 1, 0.0)[0]
        raise ConfigError(f"no preset {preset!r}; nearest: {near}; there are: {', '.join(presets())}")
    content = {"params.yaml": (PRESETS / f"{preset}.yaml").read_text(encoding="utf-8")}
    content |= {name: (PRESETS / "project" / source).read_text(encoding="utf-8") for source, name in FILES.items()}
    copied = sorted(path for folder in (PRESETS, PRESETS / "sweeps", PRESETS / "probe") for path in folder.iterdir())
    content |= {
        str("presets" / path.relative_to(PRESETS)): path.read_text(encoding="utf-8")
        for path in copied
        if path.is_file()
    }
    content["data/streets/README.md"] = PLACEHOLDER
    content[".dvc/config"] = _dvc_config(folder)
    content[".dvc/.gitignore"] = "/config.local\n/tmp\n/cache\n"
    for name, text in content.items():
        path = folder / name
        if path.exists() and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            raise ConfigError(f"{path} is there already, of another content; choose an empty folder, or move it away")
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return sorted(content)


def _dvc_config(folder: Path) -> str:
    """DVC must be told where there is no git repository around the folder."""
    here = folder.resolve()
    in_git = any((parent / ".git").exists() for parent in (here, *here.parents))
    lines = ["[core]", "    analytics = false", "    check_update = false", "    autostage = false"]
    return "\n".join(lines + ([] if in_git else ["    no_scm = true"])) + "\n"

import re
from pathlib import Path

from tests.architecture.repository import ROOT, tracked

TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".cfg", ".html", ".css", ".js", ".j2", ".json", ".csv", ""}
# Written in pieces, so that this file does not find itself.
FORBIDDEN = [
    "pypi" + r"\.org",
    "python" + "hosted",
    "download" + r"\.pytorch",
    "--(extra-)?index" + "-url",
    r"\bTO" + "DO\b",
    r"\bFIX" + "ME\b",
    "raise NotImplemented" + "Error",
    "/work" + "/",
    "breakpoint" + r"\(\)",
]


def test_no_tracked_file_is_large() -> None:
    for path in tracked():
        size = (ROOT / path).stat().st_size
        limit = 14e6 if path.suffix == ".safetensors" else 600e3
        assert size <= limit, f"{path} has {size / 1e6:.1f} MB"


def test_the_whole_checkout_is_small() -> None:
    assert sum((ROOT / path).stat().st_size for path in tracked()) < 30e6


def test_no_text_names_a_package_host_a_private_path_or_unfinished_work() -> None:
    pattern = re.compile("|".join(FORBIDDEN))
    for path in tracked():
        if path.suffix in TEXT:
            found = pattern.search((ROOT / path).read_text(encoding="utf-8"))
            assert not found, f"{path}: {found and found.group()}"


def test_nothing_made_by_a_run_is_tracked() -> None:
    made = {"data", "models", "results", "build"}
    placeholder = Path("data/streets/README.md")  # an empty folder that DVC can follow
    found = [path for path in tracked() if path.parts[0] in made or path.suffix in {".ckpt", ".pt", ".pkl"}]
    assert set(found) <= {placeholder}


def test_the_top_level_is_the_given_one() -> None:
    folders = {path.parts[0] for path in tracked() if len(path.parts) > 1}
    assert folders == {
        *("diffps", "cache", "stages", "pipeline", "tests", "benchmarks", "presets", "docs"),
        *(".ci", ".dvc", "data"),
    }


def test_links_in_documents_lead_somewhere() -> None:
    for path in tracked():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#]+)", (ROOT / path).read_text(encoding="utf-8")):
            if "://" not in target:
                assert (ROOT / path.parent / Path(target)).exists(), f"{path} links to {target}"

"""What an index says of itself, short enough to compare."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from diffps.datasets.findings import Finding, from_json
from diffps.records import SearchIndex


def findings(index: SearchIndex, *kinds: str) -> list[Finding]:
    """Findings of the given kinds; all but the fine ones where none is given."""
    wanted = kinds or ("repaired", "doubtful", "refused")
    return [finding for finding in from_json(index.report["findings"]) if finding.kind in wanted]


def told(index: SearchIndex, *kinds: str) -> list[str]:
    """The same as "kind count of", with the reason."""
    return [f"{finding.kind} {finding.count} {finding.of} {finding.reason}" for finding in findings(index, *kinds)]


def write_images(folder: Path, names: Iterable[str], size: tuple[int, int] = (100, 80)) -> None:
    """Images of ``size`` (width, height), each of its own colour."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        colour = (40 * number % 256, 40 * (number // 6) % 256, 7)
        Image.new("RGB", size, colour).save(folder / name)

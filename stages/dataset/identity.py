"""Which dataset it is: a name that a store keeps its images by, so that two datasets never share rows by accident."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache.errors import DamagedError
from diffps.records import SearchIndex
from stages.config_data import IndexConfig
from stages.together import json_content


def with_identity(index: SearchIndex, config: IndexConfig, folder: Path) -> SearchIndex:
    """``index`` with ``id`` and ``place`` in its report.

    The id follows from the images that the dataset had when it was first indexed into ``folder``, and stays while
    ``config`` names the same folder: images may be added, removed and replaced. Copies of one dataset have one id;
    datasets with equal file names have different ones. ``place`` is a digest, as a page must not tell the path.
    """
    place = hashlib.sha256(f"{config.dataset} {config.root}".encode()).hexdigest()[:10]
    known = _before(folder / "report.json")
    name = known.get("id") if known.get("place") == place else None
    if name is None:
        content = "\n".join(f"{scene.split} {scene.scene_id} {scene.digest}" for scene in index.scenes)
        name = f"{config.dataset}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"
    return replace(index, report={**index.report, "id": name, "place": place})


def _before(report: Path) -> dict[str, Any]:
    """What the index said before; nothing where there is none, or a damaged one."""
    try:
        return json_content(report, "index") if report.is_file() else {}
    except DamagedError:
        return {}

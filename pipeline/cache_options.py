"""What the commands of ``diffps cache`` share: their options, and what they open."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cache import FeatureStore
    from diffps.records import Scene
    from pipeline.runtime import Shell
    from stages.job import Runtime
    from stages.params import Params

ParamsOption = Annotated[Path, typer.Option("--params", metavar="FILE", help="The parameters, one section a stage.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a parameter, e.g. extract.encoding=int8. Repeatable."),
]
PARAMS = Path("params.yaml")


def opened(params: Path, overrides: list[str] | None) -> "tuple[Params, Runtime, FeatureStore]":
    from pipeline.config import load_params
    from stages.features.opening import open_store

    settings, runtime = load_params(params, overrides or [])
    return settings, runtime, open_store(runtime.store)


def shell() -> "Shell":
    from pipeline.runtime import Shell

    return Shell(Path("results/cache/log.jsonl"))


def indexed() -> "list[Scene]":
    """The scenes of the index; none where there is no index."""
    from diffps.datasets.tables import read_scenes
    from stages.places import INDEX
    from stages.together import index_folder

    return list(read_scenes(index_folder())) if INDEX.is_dir() else []

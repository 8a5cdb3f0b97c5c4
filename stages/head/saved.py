"""What a finished head says of itself, and what it may be shown."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache import explain_difference
from diffps.errors import CheckpointError, ConfigError
from diffps.features import FeatureSource
from diffps.model import CONFIG_FILE, WEIGHTS_FILE, PersonSearcher
from stages.config_data import ExtractConfig
from stages.features.reading import Reading
from stages.together import json_content, sealed_head


def training_of(folder: Path) -> dict[str, Any]:
    """What a head's config.json says of its training: ``training`` (section train), ``reading``, ``recipe`` of its
    features, ``scenes``. Empty where there is no head, or one that was not trained by this program's stages."""
    path = folder / CONFIG_FILE
    found: Any = json_content(path, "train").get("training", {}) if path.exists() else {}
    return found if isinstance(found, dict) else {}


def load_head(folder: Path) -> PersonSearcher:
    """The head in ``folder``. Raises CheckpointError for anything else, DamagedError where a file of it is not the one
    that was saved."""
    sealed_head(folder)
    return PersonSearcher.from_pretrained(folder)


def head_digest(folder: Path) -> str:
    """SHA-256 over a head's weights and config.json, in hex: what was found by it belongs to this digest. Empty where
    there is no head."""
    state = hashlib.sha256()
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        path = folder / name
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            state.update(hashlib.file_digest(file, "sha256").digest())
    return state.hexdigest()


def reading_of(folder: Path, searcher: PersonSearcher, extract: ExtractConfig) -> Reading:
    """The head's own reading. Heads that were saved without one say the timestep and the attention head of their maps;
    the rest is the pass of ``extract``.

    Raises CheckpointError where config.json holds something else.
    """
    said = training_of(folder)
    try:
        if "reading" in said:
            return Reading.from_json(said["reading"])
        trained: Mapping[str, Any] = said.get("training", {})
        return Reading(
            names=searcher.taps.names,
            timestep=trained.get("timestep", extract.timesteps[0]),
            pass_name=extract.name,
            encoding=extract.encoding,
            head=said.get("recipe", {}).get("head", extract.head),
            mirrored=trained.get("flip") == "cached",
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: does not say what the head reads ({error})") from error


def check_features(folder: Path, searcher: PersonSearcher, source: FeatureSource) -> None:
    """Raises ConfigError where the head was trained on other features than those at hand."""
    trained, shown = dict(searcher.shapes), {name: source.shapes[name] for name in searcher.shapes}
    differing = explain_difference(trained, shown)
    recipe = training_of(folder).get("recipe")
    if recipe is not None:
        differing = explain_difference(recipe, source.recipe) or differing
    if differing:
        raise ConfigError(
            f"evaluate.head {folder}: was trained on other features than those at hand ({'; '.join(differing)}): set "
            "encode and extract as they were then, or train a head on these"
        )

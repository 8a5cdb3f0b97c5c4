"""Recipes: everything that decides a byte of the store, written down; and the arrays they name."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cache import ArraySpec, Encoding, GroupKey, fingerprint, tap_name
from cache.encodings import Float32
from cache.fingerprint import JSON
from diffps.backbone.prior import Prior
from diffps.images import RESIZE_RULE, decoder
from diffps.records import Split, View
from diffps.taps import LATENT_STRIDE, FeatureName, TapSpec
from stages.config_data import EncodeConfig, ExtractConfig
from stages.features.reading import stored_map

EXTRACTION_VERSION = 1  # raised whenever the same recipe would give other values
MOMENTS = "moments"
EXACTNESS = ("dtype", "decoder", "seed")


def start_recipe(config: EncodeConfig, prior: Prior, view: View) -> dict[str, JSON]:
    """Recipe of what a pass starts from: the moments of an image, or the image as a prior without a VAE takes it."""
    return {
        "canvas": list(config.canvas),
        "resize": RESIZE_RULE,
        "decoder": decoder(),
        "view": view,
        **prior.start_recipe(config.dtype),
    }


def start_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The start's recipe within a pass's: ``latent``, or ``image`` where the prior has no VAE."""
    start: dict[str, Any] = recipe[_start_key(recipe)]
    return start


def pass_recipe(config: ExtractConfig, prior: Prior, start: dict[str, JSON]) -> dict[str, JSON]:
    """Recipe of a pass of the prior, but for the timestep and what is read."""
    return {
        "image" if prior.latent_channels is None else "latent": start,
        **prior.pass_recipe(config.conditions),
        "dtype": config.dtype,
        "version": EXTRACTION_VERSION,
    }


def moments_spec(config: EncodeConfig, prior: Prior, split: Split, view: View) -> ArraySpec:
    """The array of one split's moments, of a prior that has a VAE."""
    assert prior.latent_channels is not None, "a prior without a VAE has no moments"
    recipe = start_recipe(config, prior, view)
    height, width = (side // LATENT_STRIDE for side in config.canvas)
    group = GroupKey(split, view, fingerprint(recipe))
    return ArraySpec(group, MOMENTS, (height, width, 2 * prior.latent_channels), Float32(), recipe)


def tap_spec(
    tap: TapSpec, recipe: dict[str, JSON], split: Split, view: View, timestep: int, encoding: Encoding
) -> ArraySpec:
    """The array of a grid tap under one encoding."""
    own: dict[str, JSON] = {"pass": recipe, "timestep": timestep, "tap": tap.id}
    shape = (*_grid(recipe, tap), tap.channels)
    return ArraySpec(_group(recipe, split, view, timestep), tap_name(tap.id, encoding), shape, encoding, own)


def map_spec(
    tap: TapSpec,
    recipe: dict[str, JSON],
    split: Split,
    view: View,
    timestep: int,
    word: str,
    tokens: Sequence[int],
    head: int | str,
) -> ArraySpec:
    """The array of a cross-attention map for one word and head."""
    own: dict[str, JSON] = {
        "pass": recipe,
        "timestep": timestep,
        "tap": tap.id,
        "word": word,
        "tokens": list(tokens),
        "head": head,
    }
    shape = (*_grid(recipe, tap), 1)
    name = stored_map(str(FeatureName(tap.id, word)), head)
    return ArraySpec(_group(recipe, split, view, timestep), name, shape, Float32(), own)


def shown_recipe(specs: Iterable[ArraySpec]) -> dict[str, JSON]:
    """Of one view's arrays, what a head has to be shown again: all that decides the values but how exactly they are
    computed (dtypes, decoder) and which noise was drawn. Encodings may differ."""
    shown: dict[str, Any] = {}
    for spec in specs:
        own: dict[str, Any] = dict(spec.recipe)
        start = {name: value for name, value in start_of(own["pass"]).items() if name not in EXACTNESS}
        shown |= {name: value for name, value in own["pass"].items() if name not in EXACTNESS}
        shown |= {_start_key(own["pass"]): start}
        shown |= {name: own[name] for name in ("timestep", "head") if name in own}
    return shown


def _group(recipe: dict[str, JSON], split: Split, view: View, timestep: int) -> GroupKey:
    return GroupKey(split, view, fingerprint(recipe), timestep)


def _grid(recipe: dict[str, JSON], tap: TapSpec) -> tuple[int, int]:
    height, width = start_of(recipe)["canvas"]
    return height // tap.stride, width // tap.stride


def _start_key(recipe: Mapping[str, Any]) -> str:
    return "latent" if "latent" in recipe else "image"

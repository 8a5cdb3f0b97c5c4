"""Recipes: everything that decides a byte of the store, written down; and the arrays they name."""

from collections.abc import Iterable
from typing import Any

from cache import ArraySpec, Encoding, GroupKey, fingerprint, tap_name
from cache.encodings import Float32
from cache.fingerprint import JSON
from diffps.backbone.checkpoint import Checkpoint
from diffps.backbone.prompts import EncodedPrompt
from diffps.images import RESIZE_RULE, decoder
from diffps.records import Split, View
from diffps.taps import LATENT_STRIDE, FeatureName, TapSpec
from stages.config_data import EncodeConfig, ExtractConfig
from stages.features.reading import stored_map

EXTRACTION_VERSION = 1  # raised whenever the same recipe would give other values
MOMENTS = "moments"
EXACTNESS = ("dtype", "decoder", "seed")


def latent_recipe(config: EncodeConfig, checkpoint: Checkpoint, view: View) -> dict[str, JSON]:
    """Recipe of the moments of an image."""
    return {
        "vae": checkpoint.digest("vae"),
        "canvas": list(config.canvas),
        "resize": RESIZE_RULE,
        "decoder": decoder(),
        "view": view,
        "dtype": config.dtype,
    }


def pass_recipe(
    latent: dict[str, JSON],
    config: ExtractConfig,
    checkpoint: Checkpoint,
    prompt: EncodedPrompt,
    pad_token: tuple[str, int],
) -> dict[str, JSON]:
    """Recipe of a pass through the UNet, but for the timestep and what is read."""
    recipe: dict[str, JSON] = {
        "latent": latent,
        "unet": checkpoint.digest("unet"),
        "text_encoder": checkpoint.digest("text_encoder"),
        "schedule": checkpoint.schedule,
        "prompt": config.prompt,
        "token_ids": list(prompt.ids),
        "pad_token": list(pad_token),
        "latent_rule": config.latent,
        "noise": config.noise,
        "dtype": config.dtype,
        "version": EXTRACTION_VERSION,
    }
    if config.noise == "seeded" or config.latent == "sample":
        recipe["seed"] = config.seed
    return recipe


def moments_spec(config: EncodeConfig, checkpoint: Checkpoint, split: Split, view: View) -> ArraySpec:
    """The array of one split's moments."""
    recipe = latent_recipe(config, checkpoint, view)
    height, width = (side // LATENT_STRIDE for side in config.canvas)
    channels = 2 * int(checkpoint.config("vae")["latent_channels"])
    group = GroupKey(split, view, fingerprint(recipe))
    return ArraySpec(group, MOMENTS, (height, width, channels), Float32(), recipe)


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
    span: tuple[int, int],
    head: int | str,
) -> ArraySpec:
    """The array of a cross-attention map for one word and head."""
    own: dict[str, JSON] = {
        "pass": recipe,
        "timestep": timestep,
        "tap": tap.id,
        "word": word,
        "tokens": list(span),
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
        latent = {name: value for name, value in own["pass"]["latent"].items() if name not in EXACTNESS}
        shown |= {name: value for name, value in own["pass"].items() if name not in EXACTNESS} | {"latent": latent}
        shown |= {name: own[name] for name in ("timestep", "head") if name in own}
    return shown


def _group(recipe: dict[str, JSON], split: Split, view: View, timestep: int) -> GroupKey:
    return GroupKey(split, view, fingerprint(recipe), timestep)


def _grid(recipe: dict[str, JSON], tap: TapSpec) -> tuple[int, int]:
    latent = recipe["latent"]
    assert isinstance(latent, dict)
    height, width = latent["canvas"]
    return height // tap.stride, width // tap.stride

"""Recipes of Stable Diffusion's features: what a store made before the seam holds goes on under the same ids."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cache import FeatureStore, fingerprint
from stages.config_data import EncodeConfig, ExtractConfig
from stages.features.plan import PassPlan

MAP, TAP = "up-level3-repeat0-vit-block0-cross-map", "mid-vit-out"
ENCODE = EncodeConfig(checkpoint="builtin:streets", canvas=(128, 192))
EXTRACT = ExtractConfig(prompt="a person", words=("person",), head=1, timesteps=(40,), taps=(MAP, TAP))


def _recorded(recipe: dict[str, Any]) -> dict[str, Any]:
    """With the image library of the day the ids were recorded."""
    return {**recipe, "latent": {**recipe["latent"], "decoder": "pillow 13.0.0"}}


@pytest.mark.parametrize(
    ("changes", "group"),
    [
        ({}, "7ddaa8b2d1"),
        ({"noise": "none"}, "3d74ad1442"),
        ({"noise": "none", "latent": "sample", "seed": 3, "head": "mean"}, "221e08c4ea"),
    ],
)
def test_ids_of_a_pass_are_those_recorded(changes: dict[str, Any], group: str) -> None:
    plan = PassPlan(ENCODE, replace(EXTRACT, **changes), FeatureStore(Path("store")))
    recipe = _recorded(plan.recipe("hflip"))
    assert fingerprint(recipe) == group
    specs = plan.specs("train", "hflip", 40)
    assert list(specs) == [f"{MAP}.person", TAP]
    own = {name: {key: value for key, value in spec.recipe.items() if key != "pass"} for name, spec in specs.items()}
    head = plan.extract.head
    assert own[f"{MAP}.person"] == {"timestep": 40, "tap": MAP, "word": "person", "tokens": [2, 3], "head": head}
    assert own[TAP] == {"timestep": 40, "tap": TAP}
    assert specs[TAP].shape == (2, 3, 96)


def test_the_id_of_moments_is_the_one_recorded() -> None:
    plan = PassPlan(ENCODE, EXTRACT, FeatureStore(Path("store")))
    moments = plan.moments("train", "identity")
    assert fingerprint({**moments.recipe, "decoder": "pillow 13.0.0"}) == "f39f27262d"
    assert moments.shape == (16, 24, 8)

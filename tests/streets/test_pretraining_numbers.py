"""The numbers of a pretraining, by hand: rates, losses and scores, and what its card and its refusals say of them."""

import json
import math
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffps.backbone.builtin.topology import read_recipe
from diffps.backbone.checkpoint import load_checkpoint
from diffps.errors import ConfigError, DivergedError
from diffps.pretraining.card import model_card
from diffps.pretraining.codec import _edge_loss, psnr
from diffps.pretraining.config import PretrainConfig
from diffps.pretraining.denoiser import map_divergence, word_tokens
from diffps.pretraining.identity_report import Appearances, draw_appearances, score_identity, strip_histograms
from diffps.pretraining.maps_report import (
    HeldOut,
    average_precision,
    enlarge,
    presence,
    score_parts,
    score_words,
    specificity,
)
from diffps.pretraining.optimise import cosine, descend, settling, step_generator
from diffps.pretraining.pictures import maps_picture, reconstructions_picture
from diffps.pretraining.scenes import _CROWDS, STRIDE, WORDS, TrainingScenes, World, _pool, to_tensor, word_masks

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cameras": 0}, "cameras is 0; it must be at least 1"),
        ({"scenes": 0}, "scenes is 0; it must be at least 1"),
        ({"vae_scenes": 0}, "vae_scenes is 0; it must be at least 1"),
        ({"vae_batch": 0}, "vae_batch is 0; it must be at least 1"),
        ({"save_every": 0}, "save_every is 0; it must be at least 1"),
        ({"test_scenes": 0}, "test_scenes is 0; it must be at least 1"),
        ({"identities": 0}, "identities is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        ({"vae_steps": -1}, "vae_steps is -1; it must not be negative"),
        ({"map_weight": -0.1}, "map_weight is -0.1; it must not be negative"),
        ({"crop": 0}, "crop is 0; give 8, 16, 24 or 32 latent cells"),
        ({"crop": 40}, "crop is 40; give 8, 16, 24 or 32 latent cells"),
        ({"vae_crop": 24}, "vae_crop is 24; give a multiple of 8 from 32 to 256 pixels"),
        ({"vae_crop": 264}, "vae_crop is 264; give a multiple of 8 from 32 to 256 pixels"),
        ({"vae_crop": 100}, "vae_crop is 100; give a multiple of 8 from 32 to 256 pixels"),
        ({"settle": -1}, "settle is -1; it must be from 0 to pretrain.steps (4000)"),
        ({"settle": 4001}, "settle is 4001; it must be from 0 to pretrain.steps (4000)"),
        ({"identities": 6}, "identities is 6; a scene may hold six persons"),
    ],
)
def test_what_is_just_outside_a_range_is_told_the_range(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PretrainConfig(**changes)
    assert str(caught.value) == f"pretrain.{told}"


def test_what_is_just_inside_a_range_is_taken() -> None:
    ones = dict.fromkeys(("cameras", "scenes", "vae_scenes", "vae_batch", "batch", "save_every", "test_scenes"), 1)
    PretrainConfig(**ones, seed=0, steps=0, settle=0, vae_steps=0, map_weight=0.0, identities=7)
    for crop, vae_crop in ((8, 32), (16, 40), (24, 248), (32, 256)):
        PretrainConfig(crop=crop, vae_crop=vae_crop, settle=4000)


def test_rates_rise_and_fall() -> None:
    assert [cosine(step, 100, 4) for step in range(3)] == pytest.approx(
        [(step + 1) / 4 * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / 100))) for step in range(3)]
    )
    assert (cosine(50, 100, 4), cosine(100, 100, 4)) == pytest.approx((0.51, 0.02))
    assert cosine(0, 0, 1) == 1
    rates = [settling(step, 10, 4, 2) for step in range(11)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.755, 0.51, 0.265, 0.02])
    assert [settling(step, 10, 0, 2) for step in (0, 1, 10)] == [0.5, 1, 1]


def test_the_noise_of_a_step_is_its_own() -> None:
    assert step_generator(11, 2, 5).initial_seed() == (11 * 16 + 2) * 1_000_003 + 5
    seeds = {step_generator(*each).initial_seed() for each in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0), (0, 15, 9))}
    assert len(seeds) == 5


def test_a_step_clips_at_one_and_forgets_the_last_gradient() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimiser = torch.optim.SGD([weight], 99.0)
    for _ in range(2):
        descend((weight * torch.tensor([3.0, 4.0])).sum(), optimiser, 0.5, "VAE", 0)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.6, -0.8]))
    descend((weight * torch.tensor([0.3, 0.4])).sum(), optimiser, 1.0, "VAE", 0)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.9, -1.2]))
    assert optimiser.param_groups[0]["lr"] == 1.0
    with pytest.raises(DivergedError) as caught:
        descend(weight.sum() * math.inf, optimiser, 0.5, "UNet", 7)
    assert str(caught.value) == "pretraining of the UNet: loss -inf at step 7; lower its learning rate"


def test_edges_are_differences_of_neighbours() -> None:
    x = torch.zeros(1, 1, 2, 3)
    y = torch.tensor([[[[0.0, 1, 3], [4, 4, 4]]]])
    across, down = (1 + 2 + 0 + 0) / 4, (4 + 3 + 1) / 3
    assert _edge_loss(y, x).item() == pytest.approx(across + down)


class Halved:
    """A VAE that gives back pictures half as strong."""

    def encode(self, x: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=x))

    def decode(self, x: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=x / 2)


def test_decibels_of_a_vae() -> None:
    white, black = np.full((4, 4, 3), 255, np.uint8), np.zeros((4, 4, 3), np.uint8)
    assert psnr(Halved(), [white, black], CPU) == pytest.approx(10 * math.log10(4 / 0.25))
    picture = np.asarray(reconstructions_picture(Halved(), [white, black]))
    assert picture.shape == (8, 8, 3)
    assert picture[:4, :4].min() == 255
    assert not picture[:4, 4:].any()
    assert (np.unique(picture[4:, :4]).tolist(), np.unique(picture[4:, 4:]).tolist()) == ([191], [64])


def test_pictures_become_tensors_from_minus_one_to_one() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 1] = (255, 51, 0)
    found = to_tensor([image, image])
    assert found.shape == (2, 3, 2, 3)
    assert found[1, :, 0, 1].tolist() == pytest.approx([1, -0.6, -1])


def test_divergence_of_one_cell() -> None:
    maps = torch.tensor([[[[0.25, 0.75], [0.75, 0.25]], [[0.5, 0.5], [0.5, 0.5]]]])
    masks = torch.zeros(1, 1, 2, 2)
    masks[0, 0, 0, 1] = 1
    found = map_divergence([maps, maps], torch.tensor([[[1.0, 0.0]]]), masks, torch.tensor([[True]]))
    assert found is not None
    assert found.item() == pytest.approx(-math.log(0.75 / 2 + 1e-6), rel=1e-6)


def test_a_word_is_one_token() -> None:
    known = {"a": [3], "b": [5], "ab": [3, 5]}

    def tokenizer(word: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": known[word]}

    assert word_tokens(tokenizer, ["a", "b"]) == [3, 5]
    with pytest.raises(AssertionError, match="one token"):
        word_tokens(tokenizer, ["a", "ab"])


def test_cells_hold_the_share_of_their_pixels() -> None:
    masks = np.zeros((1, 2 * STRIDE, STRIDE), bool)
    masks[0, 0, :3] = True
    masks[0, STRIDE:] = True
    assert _pool(masks).tolist() == [[[round(255 * 3 / 64)], [255]]]
    assert sum(_CROWDS) == pytest.approx(1)


def test_pieces_of_a_world_are_joined_in_order() -> None:
    pieces = [
        TrainingScenes(
            World(1, 2, 9),
            np.full((number, 4, 2, 2), number, np.float16),
            np.full((number, 3, 2, 2), number, np.uint8),
            np.full((1, 6), number, np.int32),
        )
        for number in (1, 2)
    ]
    joined = TrainingScenes.join(pieces)
    assert joined.world == World(1, 2, 9)
    assert joined.latents[:, 0, 0, 0].tolist() == joined.masks[:, 0, 0, 0].tolist() == [1, 2, 2]
    assert joined.persons[:, 0].tolist() == [1, 2]


def test_masks_come_in_the_order_of_the_words() -> None:
    scene: Any = SimpleNamespace(instances=np.array([[0, 2]]), parts=np.array([[1, 2]]), objects=np.array([[1, 0]]))
    found = word_masks(scene)
    assert len(found) == len(WORDS)
    shown = {word: mask[0].tolist() for word, mask in zip(WORDS, found, strict=True) if mask.any()}
    assert list(shown.values()) == [[False, True], [True, False], [False, True], [True, False]]
    assert next(iter(shown)) == "person"


def held(*masks: np.ndarray, **scene: Any) -> HeldOut:
    """Scenes in which only persons are seen."""
    every = np.zeros((len(masks), len(WORDS), 16, 16), bool)
    every[:, 0] = masks
    return HeldOut((SimpleNamespace(**scene),) * len(masks), (np.zeros((16, 16, 3), np.uint8),) * len(masks), every)


def corner(pixels: int) -> np.ndarray:
    """So many pixels in the upper left cell."""
    mask = np.zeros((16, 16), bool)
    flat = np.zeros(64, bool)
    flat[:pixels] = True
    mask[:8, :8] = flat.reshape(8, 8)
    return mask


def test_words_are_scored_where_they_are_seen() -> None:
    grid = np.array([[0.9, 0.1], [0.2, 0.1]], np.float32)
    found = score_words({"person": np.stack([grid, grid.T, -grid])}, held(corner(64), corner(45), corner(44)))
    score = found["person"]
    assert (score["scenes"], score["pointing"], score["pointing_chance"]) == (2, 1, 0.25)
    assert score["ap_chance"] == pytest.approx((16 + 12) / 2 / 64)
    large = enlarge(grid, (8, 8)), enlarge(grid.T, (8, 8))
    expected = [average_precision(g, m[::2, ::2]) for g, m in zip(large, (corner(64), corner(45)), strict=True)]
    assert score["ap"] == pytest.approx(np.mean(expected))
    assert score_words({"person": -np.stack([grid])}, held(corner(64)))["person"]["pointing"] == 0
    assert score_words({"person": np.stack([grid])}, held(corner(44))) == {}


def test_parts_are_scored_inside_tall_persons() -> None:
    grid = np.array([[1.0, 0], [0, 0]], np.float32)
    parts = np.zeros((16, 16), int)
    parts[:4, :4] = 1
    words = dict.fromkeys(WORDS[1:5], np.stack([grid]))
    for height, pixels, count in ((60.0, 4, 1), (59.9, 4, 0), (60.0, 3, 0)):
        person = SimpleNamespace(box=(0, 0, 8, 8), height=height)
        shown = np.where(np.arange(16) < pixels, parts, 0)
        instances = (np.arange(256).reshape(16, 16) >= 0).astype(int)
        found = score_parts(words, held(corner(64), parts=shown, instances=instances, persons=[person]))
        assert [score["persons"] for score in found.values()] == [1] * count
        for score in found.values():
            assert (score["ap"], score["ap_chance"]) == (1, 0.25)
    other = np.full((16, 16), 2)
    tall = SimpleNamespace(box=(0, 0, 8, 8), height=90.0)
    assert score_parts(words, held(corner(64), parts=parts, instances=other, persons=[tall])) == {}


def test_a_map_that_is_the_same_everywhere_is_indifferent() -> None:
    flat = dict.fromkeys(WORDS, np.full((1, 2, 2), 0.3, np.float32))
    assert specificity(flat, held(corner(64)))["person"] == {"person": 1, "background": 1}
    grid = np.array([[[4.0, 0], [0, 0]]], np.float32)
    found = specificity(dict.fromkeys(WORDS, grid), held(corner(64)))["person"]
    large = enlarge(grid[0], (8, 8))
    assert found["person"] == pytest.approx(large[:4, :4].mean())
    assert found["background"] == pytest.approx((large.sum() - large[:4, :4].sum()) / 48)


def test_presence_counts_pairs_of_scenes() -> None:
    maps = np.array([[[0.1, 0.9]], [[0.5, 0.2]], [[0.5, 0.1]], [[0.1, 0.2]]], np.float32)
    nobody = np.zeros((16, 16), bool)
    assert presence(maps, held(corner(9), corner(9), nobody, nobody)) == 3 / 4
    assert math.isnan(presence(maps[:2], held(nobody, nobody)))
    assert math.isnan(presence(maps[:2], held(corner(1), corner(1))))


def test_ties_come_in_order_of_position() -> None:
    assert average_precision(np.array([1.0, 1, 0.5, 0.5]), np.array([False, True, True, False])) == (1 / 2 + 2 / 3) / 2


def test_a_person_is_found_by_the_nearest_before_another_camera() -> None:
    rng = np.random.default_rng(0)
    identity = np.tile(np.arange(5), 6)
    camera = np.repeat(np.arange(6), 5)
    seen = Appearances((), np.zeros(30, np.int64), ((0, 0, 1, 1),) * 30, identity, camera)
    codes = rng.normal(size=(5, 8))
    perfect = score_identity(codes[identity] * [1, 9, 1, 1, 1, 1, 1, 1] + 3, seen)
    assert perfect == {"nearest": 1.0, "probe": 1.0, "chance": 0.2}
    # Whoever stands before the last two cameras is shown as somebody else.
    swapped = np.where(camera < 4, identity, (identity + 1) % 5)
    found = score_identity(codes[swapped], seen)
    assert found["probe"] == 0
    assert found["nearest"] == pytest.approx(20 / 30)


def test_appearances_are_each_person_before_each_camera() -> None:
    seen = draw_appearances(World(5, 9, 50), 6)
    assert len(seen.images) == 6 * 2
    assert sorted(set(seen.camera.tolist())) == list(range(6))
    for camera in range(6):
        assert set(seen.identity[seen.camera == camera].tolist()) <= set(range(6))
    assert (np.bincount(seen.scene) <= 3).all()
    assert len(seen.boxes) == len(seen.identity) <= 36
    assert (seen.scene[seen.camera == 1] >= 2).all()


def test_histograms_are_roots_of_shares_of_four_levels() -> None:
    image = np.zeros((3, 2, 3), np.uint8)
    image[0, 0] = (64, 128, 255)
    found = strip_histograms(image, (0, 0, 2, 3)).reshape(3, 64)
    assert found[0, 16 * 1 + 4 * 2 + 3] == found[0, 0] == pytest.approx(math.sqrt(0.5))
    assert found[1, 0] == found[2, 0] == 1
    assert np.count_nonzero(found) == 4


def test_maps_are_drawn_scene_by_scene() -> None:
    image = np.full((32, 40, 3), 100, np.uint8)
    maps = {"a": np.array([[[0.0, 0], [0, 2]]] * 2, np.float32), "b": np.ones((2, 2, 2), np.float32)}
    shown = HeldOut((), (image, image), np.zeros((2, 1, 32, 40), bool))
    picture = maps_picture([("one", maps), ("two", maps)], shown, ["a", "b"], 5)
    assert picture.size == (3 * 40, 2 * 2 * (32 + 16))
    assert maps_picture([("one", maps)], shown, ["a"], 1).size == (80, 48)
    rows = np.asarray(picture)
    assert (rows[16:48, :40] == 100).all()
    assert rows[47, 79].tolist() == [255, 90, 0]
    assert rows[16, 40].tolist() == rows[47, 119].tolist() == [60, 60, 60]
    assert rows[0, 0].tolist() == [255, 255, 255]
    assert not (rows[:16, :40] == 255).all()
    assert isinstance(picture, Image.Image)


def report() -> dict[str, Any]:
    def row(*values: float) -> dict[str, float]:
        return dict(zip(("pointing", "pointing_chance", "ap", "ap_chance"), values, strict=True))

    where = {"person": 2.0, "car": 0.5, "background": 0.25}
    return {
        "scenes": 48,
        "psnr": 24.25,
        "map_tap": "a-tap",
        "words": {
            "0": {"person": row(0.9, 0.1, 0.8, 0.2), "car": row(0.7, 0.3, 0.6, 0.4)},
            "50": {"person": row(0, 0, 0.75, 0), "car": row(0, 0, 0.55, 0)},
        },
        "control": {"words": {"0": {"person": row(0.11, 0, 0.22, 0), "car": row(0.33, 0, 0.44, 0)}}},
        "parts": {"0": {"head": row(0, 0, 0.5, 0.125), "shoes": row(0, 0, 0.25, 0.0625)}},
        "specificity": {"0": {"person": where, "tree": where, "car": {**where, "car": 4.0}}},
        "identity": {"0": {"latents": {"nearest": 0.5, "probe": 0.25, "chance": 0.0278}}},
    }


def test_the_card_of_a_backbone_is_its_report() -> None:
    recipe = {
        "command": "diffps pretrain",
        "made_with": {"torch": "2.9", "device": "cpu", "threads": 2},
        "pretrain": {
            "seed": 11,
            "widths": {"unet": [48, 64], "text": 96},
            "scenes": 1500,
            "vae_steps": 500,
            "steps": 4000,
            "map_weight": 0.1,
            "map_timesteps": 500,
        },
        "digests": {"unet": "0a", "vae": "0b"},
    }
    card = model_card(recipe, report())
    lines = card.split("\n")
    assert lines[0] == "# builtin:streets"
    assert card.endswith("words fall to bytes that were never trained.\n")
    for line in (
        "- Made by `diffps pretrain`, seed 11; every setting lies in recipe.json. The data are",
        "- UNet widths [48, 64], text width 96, vocabulary of the drawn streets; VAE with f = 8",
        "- Trained on 1500 scenes: the VAE for 500 steps, UNet and text encoder for",
        "  4000 steps on predicting noise plus 0.1 x KL(drawn mask || word map) below",
        "  timestep 500, for the words person, car.",
        "  2.9, cpu, 2 thread(s). float16 safetensors; digests of the parts:",
        "  unet `0a`",
        "  vae `0b`",
        "## Held out: 48 scenes of other persons before other cameras",
        "VAE: 24.2 dB. Each word alone is the prompt; map `a-tap`,",
        "| person | 0.90 | 0.10 | 0.11 | 0.80 | 0.20 | 0.22 | 0.75 |",
        "| car | 0.70 | 0.30 | 0.33 | 0.60 | 0.40 | 0.44 | 0.55 |",
        "head 0.50 (0.12), shoes 0.25 (0.06).",
        "Where the maps of `person` and `car` lie, as multiples of their mean: `person` on persons 2.0, cars 0.5, "
        "background 0.2; `car` on persons 2.0, cars 4.0, background 0.2.",
        "The same person before another camera (three strips a person; nearest neighbour, linear probe; chance 0.028):",
        "| latents | 0.50 | 0.25 |",
    ):
        assert line in lines, line


def test_the_shipped_backbone_was_made_by_the_defaults() -> None:
    recipe = read_recipe(load_checkpoint("builtin:streets").folder)
    assert recipe is not None
    assert recipe["pretrain"] == json.loads(json.dumps(asdict(PretrainConfig())))

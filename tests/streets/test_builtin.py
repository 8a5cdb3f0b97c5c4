"""The built-in checkpoints: deterministic, complete, readable by the libraries people have."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffps.backbone.builtin import SHIPPED, builtin_folder
from diffps.backbone.builtin.codec import whiten
from diffps.backbone.builtin.topology import Widths, build, make_random, read_recipe
from diffps.backbone.builtin.vocabulary import byte_pairs, make_tokenizer
from diffps.backbone.checkpoint import load_checkpoint
from diffps.datasets.streets.captions import WORDS
from diffps.errors import CheckpointError
from diffps.pretraining.codec import psnr
from diffps.pretraining.scenes import World, pixels

NARROW = Widths(unet=(16, 16, 16, 16), heads=(1, 1, 1, 1), text=16)
PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random(tmp_path_factory.mktemp("models") / "random", NARROW)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [pixels(World(5, 4, 100).scene(index)) for index in range(6)]


def test_random_is_the_same_whatever_the_threads_and_torch_seed(random_folder: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        again = make_random(tmp_path / "random", NARROW)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)
    first, second = load_checkpoint(str(random_folder)), load_checkpoint(str(again))
    assert [first.digest(part) for part in PARTS] == [second.digest(part) for part in PARTS]


def test_random_is_made_once_and_again_for_another_recipe(tmp_path: Path) -> None:
    folder = make_random(tmp_path / "random", NARROW)
    stamp = (folder / "recipe.json").stat().st_mtime_ns
    assert make_random(folder, NARROW) == folder
    assert (folder / "recipe.json").stat().st_mtime_ns == stamp
    digest = load_checkpoint(str(folder)).digest("unet")
    make_random(folder, NARROW, seed=1)
    assert load_checkpoint(str(folder)).digest("unet") != digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["random"]


def test_random_has_every_tap_and_loads_through_diffusers(random_folder: Path) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(random_folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.vae_scale_factor == 8
    assert len(load_checkpoint(str(random_folder)).taps) == 229


def test_builtin_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert builtin_folder("random") == Path("models/random")
    with pytest.raises(CheckpointError, match=r"builtin:rendom.*builtin:random and builtin:streets"):
        builtin_folder("rendom")
    with pytest.raises(CheckpointError, match="diffps pretrain"):
        builtin_folder("streets", shipped=tmp_path / "absent")


def test_every_word_is_one_token_and_other_text_falls_to_bytes() -> None:
    tokenizer = make_tokenizer()
    for word in WORDS:
        assert len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("!", 0)
    unknown = tokenizer("Größe, 42 women!", add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in unknown


def test_byte_pairs_build_each_word_though_later_merges_exist() -> None:
    vocabulary, merges = byte_pairs(["red", "green", "reed"])
    assert {"red</w>", "green</w>", "reed</w>"} <= set(vocabulary)
    assert len(set(merges)) == len(merges)


def test_untrained_codec_keeps_colours(images: list[np.ndarray]) -> None:
    parts = build(NARROW, 0)
    assert psnr(parts.vae, images, torch.device("cpu")) > 19  # 11 dB for weights as diffusers draws them
    red = torch.tensor([0.5, -0.4, -0.6]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    with torch.inference_mode():
        decoded = parts.vae.decode(parts.vae.encode(red).latent_dist.mean).sample
    assert (decoded.mean((0, 2, 3)) - red[0, :, 0, 0]).abs().max() < 0.15


def test_whitening_changes_latents_and_not_what_they_decode_to(images: list[np.ndarray]) -> None:
    vae = build(NARROW, 0).vae
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        latents = vae.encode(x).latent_dist.mean
        decoded = vae.decode(latents).sample
        whiten(vae, latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
        white = vae.encode(x).latent_dist.mean
        again = vae.decode(white).sample
    torch.testing.assert_close(white.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(white.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(again, decoded, atol=1e-4, rtol=1e-4)


class TestShipped:
    def test_weights_are_those_of_the_recipe(self) -> None:
        recipe = read_recipe(SHIPPED)
        assert recipe is not None
        checkpoint = load_checkpoint("builtin:streets")
        assert {part: checkpoint.digest(part) for part in PARTS} == recipe["digests"]
        assert len(checkpoint.taps) == 229

    def test_it_is_small_and_explained(self) -> None:
        files = [path for path in SHIPPED.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= 14_000_000
        assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".txt"}
        card = (SHIPPED / "README.md").read_text()
        assert "drawn masks" in card
        assert json.loads((SHIPPED / "recipe.json").read_text())["command"] in card

    def test_person_map_finds_persons_it_never_saw(self) -> None:
        from diffps.backbone.frozen import FrozenUNet
        from diffps.pretraining.maps_report import MAP_TAP, HeldOut, score_words

        world = World(1234, 8, 500)
        held = HeldOut.draw([world.scene(index) for index in range(24)])
        unet = FrozenUNet.from_pretrained("builtin:streets")
        maps = unet.extract(held.images, [MAP_TAP], 0, "person", words=["person"])[f"{MAP_TAP}.person"][:, 0].numpy()
        score = score_words({"person": maps}, held)["person"]
        assert score["pointing"] > 2 * score["pointing_chance"]
        assert score["ap"] > 3 * score["ap_chance"]

"""Pretraining: the losses are what they say, they fall, and a stopped run ends where an unbroken one does."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from cache.errors import DamagedError
from diffps.backbone.builtin.topology import (
    SCHEDULE,
    Widths,
    build,
    check_unseen,
    make_random,
    read_recipe,
    save_checkpoint,
)
from diffps.backbone.checkpoint import load_checkpoint
from diffps.datasets.streets.people import Identity
from diffps.errors import ConfigError, DivergedError
from diffps.pretraining.codec import CodecTrainer
from diffps.pretraining.config import PretrainConfig
from diffps.pretraining.denoiser import DenoiserTrainer, map_divergence
from diffps.pretraining.maps_report import HeldOut, average_precision, presence, score_parts, score_words, specificity
from diffps.pretraining.optimise import descend, settling
from diffps.pretraining.scenes import WORDS, TrainingScenes, World, encode_scenes, pixels, sample_batch, to_tensor
from stages import encode, index
from stages.job import QuietJob, StoppedError
from stages.pretraining.measure import write_report
from stages.pretraining.phases import FOLDER, WORK, finished, train
from tests.world import Project

TINY = PretrainConfig(
    widths=Widths(unet=(16, 16, 16, 16), heads=(1, 1, 1, 1), text=16, vae=(8, 8, 16, 16)),
    cameras=3,
    identities=20,
    scenes=6,
    vae_scenes=4,
    vae_steps=2,
    vae_batch=2,
    vae_crop=32,
    steps=4,
    settle=2,
    batch=4,
    crop=8,
    save_every=1,
    test_scenes=4,
)
CPU = torch.device("cpu")


class StopAfter(QuietJob):
    """A job that is asked to stop once it has said ``lines`` lines."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines = lines

    def say(self, message: str, **fields: object) -> None:
        self.lines -= 1
        self.stopping = self.lines <= 0


class Recorder(QuietJob):
    """Keeps what is said, and of every piece of work its label, total, unit and what was done of it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.work: list[list[Any]] = []

    def say(self, message: str, **fields: object) -> None:
        self.lines.append(message)

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Self]:
        self.work.append([label, total, unit, 0])
        yield self

    def advance(self, done: int = 1, nbytes: int = 0, note: str = "") -> None:
        self.work[-1][-1] += done


@pytest.fixture(scope="module")
def scenes() -> TrainingScenes:
    return encode_scenes(World(5, 4, 50), 0, 6, build(TINY.widths, 0).vae, CPU)


def _alphas() -> torch.Tensor:
    return DDIMScheduler(**SCHEDULE).alphas_cumprod


def test_map_divergence_is_the_plain_formula() -> None:
    rng = np.random.default_rng(0)
    maps = [torch.from_numpy(rng.dirichlet(np.ones(7), (3, s, s)).astype(np.float32)) for s in (4, 8)]
    columns = torch.zeros(3, 2, 7)
    columns[0, 0, 2] = columns[0, 0, 5] = columns[1, 1, 3] = columns[2, 0, 1] = 1
    masks = torch.from_numpy((rng.random((3, 2, 8, 8)) < 0.3).astype(np.float32))
    asked = torch.tensor([[True, False], [False, True], [False, False]])
    expected = []
    for probabilities in maps:
        size = probabilities.shape[1]
        terms = []
        for sample, word in ((0, 0), (1, 1)):
            drawn = np.zeros((size, size))
            step = 8 // size
            for y in range(size):
                for x in range(size):
                    block = masks[sample, word, y * step : (y + 1) * step, x * step : (x + 1) * step]
                    drawn[y, x] = float(block.mean())
            seen = sum(probabilities[sample, :, :, t].numpy() * float(columns[sample, word, t]) for t in range(7))
            drawn, seen = drawn / drawn.sum(), seen / seen.sum()
            terms.append(sum(d * math.log(d / s) for d, s in zip(drawn.flat, seen.flat, strict=True) if d > 0))
        expected.append(np.mean(terms))
    found = map_divergence(maps, columns, masks, asked)
    assert found is not None
    assert float(found) == pytest.approx(float(np.mean(expected)), rel=1e-3)
    assert map_divergence(maps, columns, masks, torch.zeros(3, 2, dtype=torch.bool)) is None


def test_map_divergence_has_a_finite_gradient_where_the_mask_is_empty() -> None:
    maps = torch.full((1, 4, 4, 3), 1 / 3, requires_grad=True)
    masks = torch.zeros(1, 1, 4, 4)
    masks[0, 0, 0, 0] = 1
    columns = torch.tensor([[[0.0, 1.0, 0.0]]])
    loss = map_divergence([maps], columns, masks, torch.tensor([[True]]))
    assert loss is not None
    loss.backward()
    assert maps.grad is not None
    assert torch.isfinite(maps.grad).all()


def test_codec_loss_falls() -> None:
    images = [pixels(World(5, 4, 50).scene(index)) for index in range(4)]
    trainer = CodecTrainer(build(TINY.widths, 0).vae, TINY, CPU)
    losses = [trainer.step(0, images) for _ in range(12)]  # the same crops, so that only learning changes the loss
    assert losses[-1] < losses[0]
    assert [losses[0], losses[3]] == pytest.approx([54.0317, 51.4866], rel=2e-3)  # as in the first version


def test_latents_of_a_finished_codec_have_mean_0_and_variance_1() -> None:
    images = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8) for seed in range(2)]
    vae = CodecTrainer(build(TINY.widths, 0).vae, TINY, CPU).finish(images)
    assert not vae.training
    with torch.no_grad():
        latents = vae.encode(to_tensor(images)).latent_dist.mean
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)


def test_noise_and_map_losses_fall(scenes: TrainingScenes) -> None:
    trainer = DenoiserTrainer(build(TINY.widths, 0), _alphas(), TINY, CPU)
    losses = [trainer.step(0, scenes) for _ in range(40)]
    assert losses[-1].denoising < losses[0].denoising
    assert losses[-1].maps < losses[0].maps
    told = [losses[0].denoising, losses[0].maps, losses[3].denoising, losses[3].maps]
    assert told == pytest.approx([1.05968, 1.38041, 1.04991, 1.37003], rel=1e-3)  # as in the first version


def test_maps_are_asked_for_below_a_timestep(scenes: TrainingScenes) -> None:
    """The earliest of the first batch whose words are seen is 181."""
    for limit, asked in ((181, False), (182, True)):
        trainer = DenoiserTrainer(build(TINY.widths, 0), _alphas(), replace(TINY, map_timesteps=limit), CPU)
        assert math.isfinite(trainer.step(0, scenes).maps) == asked


def test_batches_are_crops_with_captions_of_what_they_show(scenes: TrainingScenes) -> None:
    batch = sample_batch(scenes, np.random.default_rng(0), 32, 16)
    assert batch.latents.shape == (32, 4, 16, 16)
    assert batch.masks.shape == (32, len(WORDS), 16, 16)
    assert 0 <= float(batch.masks.min()) <= float(batch.masks.max()) <= 1
    for mask, text in zip(batch.masks, batch.captions, strict=True):
        if "person" in text.split():
            assert mask[0].sum() > 0
        for word in {"car", "tree", "pole", "sign", "bin"} & set(text.split()):
            assert mask[WORDS.index(word)].sum() > 0.5


def test_crops_are_windows_and_name_whom_they_show() -> None:
    """The largest person first, and only those of whom over 40 % of the pixels are in the crop."""
    asked: list[int] = []

    class Asked(World):
        def identity(self, number: int) -> Identity:
            asked.append(number)
            return super().identity(number)

    places = np.arange(64).reshape(8, 8)
    latents = np.stack([np.broadcast_to(places + 64 * scene, (4, 8, 8)) for scene in range(3)]).astype(np.float16)
    masks = np.stack([np.broadcast_to(places + 64 * scene, (len(WORDS), 8, 8)) for scene in range(3)]).astype(np.uint8)
    persons = [[0, 11, 4, 0, 24, 8], [0, 12, 12, 18, 20, 30], [0, 13, 8, 16, 40, 56]]
    persons += [[2, 14, 0, 4, 8, 25], [2, 15, 30, 0, 64, 64]]
    scenes = TrainingScenes(Asked(5, 4, 50), latents, masks, np.array(persons, np.int32))
    batch = sample_batch(scenes, np.random.default_rng(0), 400, 4)
    expected, corners = [], set()
    for latent, mask in zip(batch.latents.numpy(), batch.masks.numpy(), strict=True):
        scene, place = divmod(int(latent[0, 0, 0]), 64)
        y, x = divmod(place, 8)
        corners.add((y, x))
        np.testing.assert_array_equal(latent, latents[scene, :, y : y + 4, x : x + 4])
        np.testing.assert_allclose(mask, masks[scene, :, y : y + 4, x : x + 4] / 255, rtol=1e-6)
        shown = np.zeros((64, 64), bool)
        shown[8 * y : 8 * y + 32, 8 * x : 8 * x + 32] = True
        areas = {(x2 - x1) * (y2 - y1): (who, of, shown[y1:y2, x1:x2].mean()) for of, who, x1, y1, x2, y2 in persons}
        expected += [who for _, (who, of, share) in sorted(areas.items(), reverse=True) if of == scene and share > 0.4]
    assert asked == expected
    assert corners == {(y, x) for y in range(5) for x in range(5)}


def test_learning_rate_settles() -> None:
    rates = [settling(step, 100, 20, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[10:80]) == {1.0}
    assert rates[-1] < 0.1


def test_divergence_is_an_error_and_leaves_the_weights() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.SGD([weight], 0.1)
    with pytest.raises(DivergedError, match="at step 3"):
        descend((weight * math.nan).sum(), optimiser, 0.1, "VAE", 3)
    assert torch.equal(weight.detach(), torch.ones(2))


def test_scores_know_perfect_maps_and_constant_ones() -> None:
    held = HeldOut.draw([World(9, 3, 50).scene(index) for index in range(6)])
    size = held.masks.shape[-1] // 8
    cells = held.masks.reshape(6, len(WORDS), size, 8, size, 8).mean((3, 5)).astype(np.float32)
    perfect = {word: cells[:, place] + 1e-6 for place, word in enumerate(WORDS)}
    flat = {word: np.ones_like(grid) for word, grid in perfect.items()}
    words = score_words(perfect, held)
    assert all(score["pointing"] == 1.0 for score in words.values())
    assert words["person"]["ap"] > 0.85
    assert score_words(flat, held)["person"]["ap"] < 3 * words["person"]["ap_chance"]
    assert score_parts(perfect, held)["shirts"]["ap"] > 0.7
    table = specificity(perfect, held)
    assert table["person"]["person"] > 5 * table["person"]["background"]
    assert 0 <= presence(perfect["person"], held) <= 1 or math.isnan(presence(perfect["person"], held))


def test_average_precision_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    scores, positive = rng.random(500), rng.random(500) < 0.2
    assert average_precision(scores, positive) == pytest.approx(metrics.average_precision_score(positive, scores))


def _run(folder: Path, job: Any, monkeypatch: pytest.MonkeyPatch, config: PretrainConfig = TINY) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    train(config, job, CPU)
    recipe = read_recipe(FOLDER)
    assert recipe is not None
    digests: dict[str, Any] = recipe["digests"]
    return digests


def test_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Recorder()
    whole = _run(tmp_path / "whole", job, monkeypatch)
    assert job.work == [
        ["pretrain: VAE", 2, "steps", 2],
        ["pretrain: latents", 6, "scenes", 6],
        ["pretrain: UNet", 4, "steps", 4],
    ]
    said = [re.sub(r"\d+\.\d+|nan", "#", line) for line in job.lines]
    assert said == [
        *(f"VAE step {step}: loss #" for step in (1, 2)),
        "VAE: # dB on 16 scenes it learnt from",
        *(f"UNet step {step}: noise #, maps # nats" for step in (1, 2, 3, 4)),
        "wrote models/streets",
    ]
    assert finished(TINY)
    assert not finished(replace(TINY, steps=5))
    again = Recorder()
    assert _run(tmp_path / "whole", again, monkeypatch) == whole  # with all of it there nothing is done again
    assert again.work == [["pretrain: VAE", 0, "steps", 0], ["pretrain: UNet", 0, "steps", 0]]
    for lines in (1, 2, 2, 1):
        with pytest.raises(StoppedError):
            _run(tmp_path / "stopped", StopAfter(lines), monkeypatch)
    for path in sorted(Path("models/streets-work").glob("*.*")):
        content = path.read_bytes()
        path.write_bytes(content[:-400] + bytes([content[-400] ^ 1]) + content[-399:])
        if path.name in ("vae.pt", "scenes.npz"):  # read by every run
            with pytest.raises(DamagedError, match=f"{path}: does not match its digest; delete {path}"):
                _run(tmp_path / "stopped", QuietJob(), monkeypatch)
        path.write_bytes(content)
    assert _run(tmp_path / "stopped", QuietJob(), monkeypatch) == whole
    checkpoint = load_checkpoint("models/streets")
    assert {part: checkpoint.digest(part) for part in whole} == whole  # type: ignore[arg-type]


@pytest.mark.slow
def test_more_steps_go_on_from_before_the_settling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = replace(TINY, steps=6)
    _run(tmp_path / "grown", QuietJob(), monkeypatch)
    grown = _run(tmp_path / "grown", QuietJob(), monkeypatch, longer)
    assert grown == _run(tmp_path / "fresh", QuietJob(), monkeypatch, longer)


@pytest.mark.slow
def test_report_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(tmp_path, QuietJob(), monkeypatch)
    report = write_report(TINY, FOLDER, WORK / "untrained", Path("results"), QuietJob())
    assert set(report["words"]) == {"0", "50", "200"}
    assert {"latents", "mean RGB", "colour histogram", "level 3 together"} <= set(report["identity"]["0"])
    for name in ("metrics.json", "maps.png", "reconstructions.png"):
        assert (Path("results") / name).stat().st_size > 0
    assert "drawn masks" in (FOLDER / "README.md").read_text()


def test_measuring_stops_on_request_and_compares_with_the_same_vae_and_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(build(TINY.widths, 0), FOLDER, {})
    job = Recorder()
    job.stopping = True
    with pytest.raises(StoppedError, match="stopped while measuring"):
        write_report(TINY, FOLDER, WORK / "untrained", Path("results"), job)
    ((*told, done),) = job.work
    persons = 36 * 6 // 3  # before six cameras, three a scene
    assert told == ["pretrain: held out", 3 * (len(WORDS) * TINY.test_scenes + persons), "images"]
    assert 0 < done < told[1]
    trained, control = load_checkpoint(str(FOLDER)), load_checkpoint(str(WORK / "untrained"))
    assert control.digest("vae") == trained.digest("vae")
    save_checkpoint(build(TINY.widths, TINY.seed + 1), Path("next"), {})
    assert control.digest("unet") == load_checkpoint("next").digest("unet") != trained.digest("unet")


@pytest.mark.parametrize("further", [0, 1])
def test_the_demo_must_draw_another_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, further: int) -> None:
    """Its backbone learned from one seed and was measured on the next."""
    project = Project(tmp_path, monkeypatch, {"encode": {"checkpoint": "builtin:streets"}})
    learned = read_recipe(load_checkpoint("builtin:streets").folder)
    assert learned is not None
    seed = learned["pretrain"]["seed"] + further
    sections: dict[str, Any] = {"index": {"streets": {"seed": seed}}}
    project.run(index, **sections)
    with pytest.raises(ConfigError, match=rf"index\.streets\.seed {seed}: .*choose another"):
        project.run(encode, **sections)
    assert not Path("data/features").exists()


def test_any_world_may_be_drawn_for_a_backbone_that_saw_none(tmp_path: Path) -> None:
    check_unseen(make_random(tmp_path / "random"), PretrainConfig().seed)


@pytest.mark.parametrize(
    ("field", "value"),
    [("crop", 12), ("vae_crop", 50), ("settle", 10_000), ("batch", 0), ("steps", -1), ("identities", 3)],
)
def test_config_names_the_field_that_is_wrong(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"pretrain.{field}"):
        PretrainConfig(**{field: value})  # type: ignore[arg-type]

"""The backbone of the demo trained from drawn streets: VAE, latents, UNet and text encoder, each phase resumable."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from numpy.typing import NDArray

from cache.files import write_bytes, write_json
from cache.sealed import OPEN, read_arrays, read_sealed, seal, write_arrays
from diffps.backbone.builtin.topology import SCHEDULE, Parts, build, read_recipe, save_checkpoint
from diffps.backbone.checkpoint import load_checkpoint
from diffps.pretraining.codec import CodecTrainer, psnr
from diffps.pretraining.config import PretrainConfig
from diffps.pretraining.denoiser import DenoiserTrainer
from diffps.pretraining.scenes import TrainingScenes, World, encode_scenes, pixels
from stages.job import Job, StoppedError

FOLDER = Path("models/streets")
WORK = Path("models/streets-work")
COMMAND = "diffps pretrain"
_ENCODE_BATCH = 8
_CODEC_SCENES = 1_000_000  # the VAE's scenes are numbered from here
_WHITENING_SCENES = 128
_VAE_FIELDS = ("seed", "widths", "cameras", "identities", "vae_scenes", "vae_steps", "vae_batch", "vae_crop", "vae_lr")


def train(config: PretrainConfig, job: Job, device: torch.device) -> None:
    """VAE, latents, UNet and text encoder, models/streets; every phase resumes from models/streets-work."""
    WORK.mkdir(parents=True, exist_ok=True)
    world = World(config.seed, config.cameras, config.identities)
    parts = build(config.widths, config.seed)
    _train_codec(config, job, world, parts, device)
    scenes = _encode(config, job, world, parts, device)
    _train_denoiser(config, job, scenes, parts, device)
    for model in (parts.unet, parts.vae, parts.text_encoder):
        model.to("cpu").half().eval()
    made_with = {"torch": torch.__version__, "device": device.type, "threads": torch.get_num_threads()}
    recipe: dict[str, Any] = {"command": COMMAND, "pretrain": _plain(config), "made_with": made_with}
    save_checkpoint(parts, FOLDER, recipe)
    checkpoint = load_checkpoint(str(FOLDER))
    recipe["digests"] = {part: checkpoint.digest(part) for part in ("unet", "vae", "text_encoder")}
    write_json(FOLDER / "recipe.json", recipe)
    job.say(f"wrote {FOLDER}")


def _train_codec(config: PretrainConfig, job: Job, world: World, parts: Parts, device: torch.device) -> None:
    images = [pixels(world.scene(_CODEC_SCENES + index)) for index in range(config.vae_scenes)]
    trainer = CodecTrainer(parts.vae, config, device)
    recipe = {name: value for name, value in _plain(config).items() if name in _VAE_FIELDS}
    state = _State(WORK / "vae.pt", recipe, {"vae": trainer.vae, "optimiser": trainer.optimiser}, job)
    with job.track("pretrain: VAE", config.vae_steps - state.step, "steps") as tracker:
        for step in range(state.step, config.vae_steps):
            loss = trainer.step(step, images)
            tracker.advance()
            if (step + 1) % config.save_every == 0 or step + 1 == config.vae_steps or job.stopping:
                job.say(f"VAE step {step + 1}: loss {loss:.4f}", step=step + 1, loss=loss)
                state.save(step + 1)
    trainer.finish(images[:_WHITENING_SCENES])
    job.say(f"VAE: {psnr(parts.vae, images[:16], device):.1f} dB on 16 scenes it learnt from")


def _encode(config: PretrainConfig, job: Job, world: World, parts: Parts, device: torch.device) -> TrainingScenes:
    path = WORK / "scenes.npz"
    recipe = {name: value for name, value in _plain(config).items() if name in (*_VAE_FIELDS, "scenes")}
    text = json.dumps(recipe, sort_keys=True)
    if path.exists():
        arrays = read_arrays(path, _anew(path))
        if str(arrays["recipe"]) == text:
            return TrainingScenes(world, arrays["latents"], arrays["masks"], arrays["persons"])
    pieces = []
    with job.track("pretrain: latents", config.scenes, "scenes") as tracker:
        for first in range(0, config.scenes, _ENCODE_BATCH):
            last = min(first + _ENCODE_BATCH, config.scenes)
            pieces.append(encode_scenes(world, first, last, parts.vae, device))
            tracker.advance(last - first)
            if job.stopping:
                raise StoppedError("stopped while encoding scenes; the same command encodes them again")
    scenes = TrainingScenes.join(pieces)
    kept: dict[str, NDArray[Any]] = {"latents": scenes.latents, "masks": scenes.masks, "persons": scenes.persons}
    write_arrays(path, {"recipe": np.array(text), **kept})
    return scenes


def _anew(path: Path) -> str:
    """How messages name the way to another file."""
    return f"delete {path}, `{COMMAND}`"


def _train_denoiser(
    config: PretrainConfig, job: Job, scenes: TrainingScenes, parts: Parts, device: torch.device
) -> None:
    scheduler: Any = DDIMScheduler(**SCHEDULE)
    trainer = DenoiserTrainer(parts, scheduler.alphas_cumprod, config, device)
    modules = {"unet": trainer.unet, "text_encoder": trainer.text_encoder, "optimiser": trainer.optimiser}
    recipe = {name: value for name, value in _plain(config).items() if name not in ("save_every", "test_scenes")}
    common = {name: value for name, value in recipe.items() if name not in ("steps", "settle")}
    turn = config.steps - config.settle  # up to here, trainings with other numbers of steps are the same
    settling = _State(WORK / "unet-settling.pt", recipe, modules, job)
    state = settling if settling.step else _State(WORK / "unet.pt", common, modules, job, last=turn)
    recent: list[tuple[float, float]] = []
    with job.track("pretrain: UNet", config.steps - state.step, "steps") as tracker:
        for step in range(state.step, config.steps):
            losses = trainer.step(step, scenes)
            recent.append((losses.denoising, losses.maps))
            tracker.advance()
            done = step + 1
            if done % config.save_every == 0 or done in (turn, config.steps) or job.stopping:
                job.say(f"UNet step {done}: {_summary(recent)}", step=done)
                recent.clear()
                (state if done <= turn else settling).save(done)
    parts.unet.to(memory_format=torch.contiguous_format)


def _summary(recent: Sequence[tuple[float, float]]) -> str:
    asked = [maps for _, maps in recent if not math.isnan(maps)]
    noise = sum(loss for loss, _ in recent) / len(recent)
    return f"noise {noise:.4f}, maps {sum(asked) / len(asked) if asked else math.nan:.3f} nats"


class _State:
    """What one training resumes from, in one file: the step it reached, ``last`` at most, and all it left behind."""

    def __init__(
        self, path: Path, recipe: Mapping[str, Any], modules: Mapping[str, Any], job: Job, last: float = math.inf
    ) -> None:
        self._path, self._recipe, self._modules, self._job = path, json.dumps(recipe, sort_keys=True), modules, job
        self.step = 0
        if not path.exists():
            return
        data = read_sealed(path, _anew(path))
        kept = torch.load(io.BytesIO(data[: -len(OPEN)]), weights_only=True, map_location="cpu")
        if kept["recipe"] != self._recipe or kept["step"] > last:
            job.say(f"{path} is of another recipe; starting over")
            return
        for name, module in modules.items():
            module.load_state_dict(kept[name])
        self.step = int(kept["step"])

    def save(self, step: int) -> None:
        """Keep the state after ``step`` steps. Raises StoppedError when the job is asked to stop."""
        state = {name: module.state_dict() for name, module in self._modules.items()}
        kept = {"recipe": self._recipe, "step": step, **state}
        buffer = io.BytesIO()
        torch.save(kept, buffer)
        write_bytes(self._path, seal(buffer.getvalue() + OPEN.encode()))
        if self._job.stopping:
            raise StoppedError(f"stopped after step {step}; the same command goes on from there")


def _plain(config: PretrainConfig) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def finished(config: PretrainConfig) -> bool:
    """True where the model at hand was trained by this recipe."""
    recipe = read_recipe(FOLDER)
    return recipe is not None and "digests" in recipe and recipe["pretrain"] == _plain(config)

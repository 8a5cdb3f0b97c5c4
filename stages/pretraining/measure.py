"""Measure a pretrained backbone on scenes of another world: new persons, new cameras."""

from pathlib import Path
from typing import Any

import torch

from cache.files import write_json, write_text
from diffps.backbone.builtin.topology import build, read_recipe, save_checkpoint
from diffps.backbone.frozen import FrozenUNet
from diffps.pretraining.card import model_card
from diffps.pretraining.codec import psnr
from diffps.pretraining.config import PretrainConfig
from diffps.pretraining.identity_report import descriptors, draw_appearances, score_identity
from diffps.pretraining.maps_report import (
    MAP_TAP,
    HeldOut,
    presence,
    score_parts,
    score_words,
    specificity,
    word_maps,
)
from diffps.pretraining.pictures import maps_picture, reconstructions_picture
from diffps.pretraining.reading import Reader
from diffps.pretraining.scenes import WORDS, World
from stages.job import Job, StoppedError

TIMESTEPS = (0, 50, 200)
_IDENTITIES = 36
_PICTURED = ("person", "head", "shirts", "pants", "shoes", "car")


def write_report(config: PretrainConfig, checkpoint: Path, control: Path, results: Path, job: Job) -> dict[str, Any]:
    """Measure ``checkpoint`` into ``results`` (metrics.json, pictures), and write its model card.

    ``control`` is a folder for the same checkpoint with an untrained UNet and text encoder, made here.
    """
    results.mkdir(parents=True, exist_ok=True)
    trained = FrozenUNet.from_pretrained(str(checkpoint))
    parts = build(config.widths, config.seed + 1)
    parts.vae.load_state_dict(trained.checkpoint.load_vae(torch.float32).state_dict())
    save_checkpoint(parts, control, {})
    untrained = FrozenUNet.from_pretrained(str(control))
    world = World(config.seed + 1, config.cameras, config.identities)
    held = HeldOut.draw([world.scene(index) for index in range(config.test_scenes)])
    seen = draw_appearances(world, _IDENTITIES)
    report: dict[str, Any] = {
        "scenes": config.test_scenes,
        "map_tap": MAP_TAP,
        "psnr": psnr(parts.vae, held.images, torch.device("cpu")),
        **_measure(trained, held, seen, TIMESTEPS, job),
        "control": _measure(untrained, held, seen, (0,), job),
    }
    maps, other = report.pop("maps"), report["control"].pop("maps")
    write_json(results / "metrics.json", report)
    maps_picture([("trained", maps), ("random", other)], held, _PICTURED, 6).save(results / "maps.png")
    reconstructions_picture(parts.vae, held.images[:6]).save(results / "reconstructions.png")
    recipe = read_recipe(checkpoint)
    if recipe is not None and "digests" in recipe:
        write_text(checkpoint / "README.md", model_card(recipe, report))
    person, identity = report["words"]["0"]["person"], report["identity"]["0"]
    job.say(
        f"held out: person pointing {person['pointing']:.2f}, AP {person['ap']:.2f}; VAE {report['psnr']:.1f} dB; "
        f"nearest neighbour {identity['level 3 together']['nearest']:.2f}, "
        f"of colour histograms {identity['colour histogram']['nearest']:.2f}"
    )
    return report


def _measure(unet: FrozenUNet, held: Any, seen: Any, timesteps: tuple[int, ...], job: Job) -> dict[str, Any]:
    """Every score by timestep (as text: it goes into JSON), and the maps at the first."""
    found: dict[str, Any] = {name: {} for name in ("words", "parts", "specificity", "presence", "identity")}
    reader, persons = Reader.of(unet, held.images), Reader.of(unet, seen.images)
    work = len(timesteps) * (len(WORDS) * len(held.images) + len(seen.images))
    with job.track("pretrain: held out", work, "images") as tracker:

        def advance(images: int) -> None:
            tracker.advance(images)
            if job.stopping:
                raise StoppedError("stopped while measuring; the same command measures again")

        for timestep in timesteps:
            maps = word_maps(reader, timestep, advance)
            found.setdefault("maps", maps)
            key = str(timestep)
            found["words"][key] = score_words(maps, held)
            found["parts"][key] = score_parts(maps, held)
            found["specificity"][key] = specificity(maps, held)
            found["presence"][key] = presence(maps["person"], held)
            values = descriptors(persons, seen, timestep, advance)
            found["identity"][key] = {name: score_identity(value, seen) for name, value in values.items()}
    return found

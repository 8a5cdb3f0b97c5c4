"""What a training leaves beside the head: metrics, and the facts on its card."""

import statistics
from collections.abc import Mapping
from typing import Any

from diffps.cards import CardFacts
from diffps.training import HeadTrainer
from stages.features.recipes import start_of
from stages.head.data import TrainingSet
from stages.head.identity import HeadIdentity

Best = tuple[float, int]  # mAP on held-out identities, epoch


def training_metrics(trainer: HeadTrainer, data: TrainingSet, best: Best | None) -> dict[str, Any]:
    """Counts, times and the mean losses of the last epoch, for metrics.json."""
    history = trainer.history
    last = [result for result in history if result.epoch == history[-1].epoch]
    seconds: dict[int, float] = {}
    for result in history:
        seconds[result.epoch] = seconds.get(result.epoch, 0.0) + result.seconds + result.waited
    found: dict[str, Any] = {
        "images": len(data.order.scene_ids),
        "identities": data.identities,
        "epochs": len(seconds),
        "steps": len(history),
        "seconds": sum(seconds.values()),
        "seconds_per_epoch": statistics.median(seconds.values()),
        "seconds_waiting": sum(result.waited for result in history),
        "parameters": _parameters(trainer),
        "device": str(trainer.device),
        "loss": statistics.fmean(result.total for result in last),
        "losses": {name: statistics.fmean(result.losses[name] for result in last) for name in last[0].losses},
    }
    if best is not None:
        found |= {"held_out_map": best[0], "best_epoch": best[1]}
    return found


# Parts of priors, as recipes call them and people do.
PARTS = {
    "unet": "UNet",
    "transformer": "transformer",
    "vae": "VAE",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
    "text_encoder_3": "third text encoder",
    "model": "model",
    "vision": "vision",
    "text": "text",
}


def card_facts(
    identity: HeadIdentity, recipe: Mapping[str, Any], trainer: HeadTrainer, data: TrainingSet, best: Best | None
) -> CardFacts:
    """``recipe`` is that of the features: digests of the models they were made by."""
    settings, encode = identity.settings, identity.backbone["encode"]
    checkpoint, revision = encode["checkpoint"], encode["revision"]
    made_by = {**start_of(recipe), **recipe}
    digests = ", ".join(f"{part} {made_by[key]}" for key, part in PARTS.items() if key in made_by)
    features = {"pass": identity.reading.pass_name, **settings["features"]}
    return CardFacts(
        dataset=identity.dataset,
        backbone=f"{checkpoint if revision is None else f'{checkpoint}@{revision}'} ({digests})",
        features={"timestep": identity.reading.timestep, "canvas": settings["canvas"], **features},
        settings=settings["train"],
        scenes=len(data.order.scene_ids),
        identities=data.identities,
        parameters=_parameters(trainer),
        scores={} if best is None else {"held-out mAP (ground-truth boxes)": best[0]},
    )


def _parameters(trainer: HeadTrainer) -> int:
    return sum(parameter.numel() for parameter in trainer.model.parameters())

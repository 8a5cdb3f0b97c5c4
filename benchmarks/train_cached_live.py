"""A training step from the cache against one that runs the backbone, beside the ratio that FLOPs predict.

Wanted: the measured ratio is at least 0.8 of the predicted one. Both train the same head on the same batches.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from backbone_common import count_flops
from training_common import make_project, new_head, open_train, summary, training_data, write

from diffps.features import Ref
from diffps.heads.costs import costs
from stages.head.data import TrainingSet
from stages.job import Runtime
from stages.params import Params, override

RUNTIME = Runtime()


def step_seconds(params: Params, data: TrainingSet, folder: Path) -> list[float]:
    """Wall seconds per step, features included; the first, which allocates and compiles, is left out."""
    from diffps.training import train_heads

    with open_train(params, RUNTIME) as source:
        run = new_head(params, data, source, folder, RUNTIME)
        seconds, began = [], time.perf_counter()
        for _ in train_heads({"head": run.trainer}, source, data.order, data.target):
            seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
    # A live source computes ahead in batches of its own size: whole epochs are averaged.
    per_epoch = data.order.batches_per_epoch
    epochs = [seconds[start : start + per_epoch] for start in range(per_epoch, len(seconds), per_epoch)]
    return [sum(epoch) / len(epoch) for epoch in epochs]


def flops(params: Params, data: TrainingSet) -> tuple[float, float]:
    """(a head's step, the backbone for one batch), counted."""
    scenes = [Ref(scene_id) for scene_id in data.order.scene_ids[: params.train.batch]]
    with open_train(params, RUNTIME) as source:
        run = new_head(params, data, source, Path("flops"), RUNTIME)
        backbone = count_flops(lambda: list(source.stream([scenes], params.train.taps.names)))
    # The backward differentiates by weights and by inputs: three forwards in all.
    return 3.0 * sum(part.forward_flops for part in costs(run.trainer.model, params.train.batch)), float(backbone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--canvas", type=int, default=256)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3, help="the first one is not counted")
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--checkpoint", default="builtin:random")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        changes: dict[str, Any] = {
            "encode.canvas": [options.canvas] * 2,
            "encode.checkpoint": options.checkpoint,
            "index.streets.train_scenes": options.scenes,
            "train.model.channels": options.channels,
            "train.epochs": options.epochs,
        }
        cached = make_project(Path(temporary), changes)
        live = override(cached, {"train.source": "live"}, "benchmark")
        data = training_data(cached)
        head, backbone = flops(live, data)
        seconds = {name: step_seconds(p, data, Path(name)) for name, p in (("cached", cached), ("live", live))}
    medians = {name: summary(values) for name, values in seconds.items()}
    measured = medians["live"]["median"] / medians["cached"]["median"]
    predicted = (head + backbone) / head
    found = {
        "canvas": options.canvas,
        "channels": options.channels,
        "batch": cached.train.batch,
        "step_s": medians,
        "head_step_flops": head,
        "backbone_flops": backbone,
        "predicted_ratio": predicted,
        "measured_ratio": measured,
        "share_of_predicted": measured / predicted,
        "wanted_share": 0.8,
    }
    write("train_cached_live", found)


if __name__ == "__main__":
    main()

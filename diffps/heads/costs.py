"""What a training step costs, counted without computing anything: parameters, FLOPs and kept activations per part."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffps.features import Feature
from diffps.model import PersonSearcher


class PartCost(NamedTuple):
    """One part for one batch.

    Trainable numbers; FLOPs of a forward (2 per multiply-add; a training step takes three times that, as the backward
    differentiates by weights and by inputs); bytes kept for the backward in float32.
    """

    part: str
    parameters: int
    forward_flops: int
    activation_bytes: int


def costs(searcher: PersonSearcher, batch: int = 1) -> list[PartCost]:
    """The cost of every part that is on, for ``batch`` images with all RoIs sampled. Choosing boxes (NMS, matching)
    is left out: it depends on the boxes and is small."""
    # A copy on the meta device has shapes and no numbers.
    model = copy.deepcopy(searcher).to("meta").train()
    config = model.config

    def feature(name: str) -> Feature:
        height, width, channels = model.shapes[name]
        return Feature(torch.empty(batch, height, width, channels, device="meta"))

    def feature_map(name: str) -> Tensor:
        height, width, _ = model.shapes[name]
        return _map(batch, config.channels, height, width)

    features = {name: feature(name) for name in model.taps.names}
    refined = feature_map(model.taps.level3[0])
    detection = refined if config.shared_features else feature_map(model.taps.detection)
    source = features[model.taps.detection]
    box_rois = [torch.empty(config.box.samples, 4, device="meta") for _ in range(batch)]
    reid_rois = [torch.empty(config.reid.samples, 4, device="meta") for _ in range(batch)]
    embeddings = torch.empty(batch * config.reid.samples, config.embedding.size, device="meta", requires_grad=True)
    memory = torch.empty(len(model.oim.table) + len(model.oim.queue), config.embedding.size, device="meta")

    def rpn_head() -> list[Tensor]:
        scores, deltas = model.proposals.rpn.head([detection])
        return [*scores, *deltas]

    runs: dict[str, tuple[nn.Module | None, Callable[[], list[Tensor]]]] = {
        "aggregation": (model.aggregation, lambda: [model.aggregation(source)]),  # type: ignore[misc]
        "dgrpn": (model.dgrpn, lambda: [model.dgrpn(detection, model.guidance(features))]),  # type: ignore[misc]
        "proposals": (model.proposals, rpn_head),
        "box_head": (model.box_head, lambda: list(model.box_head(detection, box_rois))),
        "msfrn": (model.msfrn, lambda: [model.msfrn(features)]),
        "reid_head": (model.reid_head, lambda: [model.reid_head(refined, reid_rois)]),
        "oim": (model.oim, lambda: [embeddings @ memory.T]),
    }
    return [_count(part, module, run) for part, (module, run) in runs.items() if module is not None]


def _map(batch: int, channels: int, height: int, width: int) -> Tensor:
    x = torch.empty(batch, channels, height, width, device="meta", requires_grad=True)
    return x.to(memory_format=torch.channels_last)


def _count(part: str, module: nn.Module, run: Callable[[], list[Tensor]]) -> PartCost:
    own = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    kept: dict[int, int] = {}
    holders = []  # a storage's address is its name only while it lives

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            holders.append(storage)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        FlopCounterMode(display=False) as forward,
    ):
        run()
    return PartCost(
        part,
        sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad),
        forward.get_total_flops(),
        sum(kept.values()),
    )

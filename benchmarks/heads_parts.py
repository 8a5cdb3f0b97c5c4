"""Time and peak memory of every part of the head and of a whole training step, beside a plain implementation.

    python benchmarks/heads_parts.py                      # canvas 640, C = 256, 128 RoIs: a few minutes on 2 cores
    python benchmarks/heads_parts.py --quick              # canvas 256, C = 64, 32 RoIs
    python benchmarks/heads_parts.py --channels 1024      # the paper's width at canvas 640
    python benchmarks/heads_parts.py --device cuda --canvas 1280 --channels 1024

Both sides hold the same weights and are compared before they are timed. A run is a forward and its backward; ours and
plain take turns. Memory is what the allocator holds at most above what was there before: exact, counted in a run of its
own.
"""

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from heads_plain import (
    PlainDGRPN,
    PlainFirstLayers,
    PlainMSFRN,
    PlainOIM,
    PlainPartEncoder,
    PlainSFAN,
    own_copy,
    plain_searcher,
)
from heads_timing import Measured, Run, measure, show
from torch import Tensor, nn

from diffps.features import Feature, FeatureShape
from diffps.geometry import Canvas
from diffps.heads.config import ModelConfig, OIMConfig, TapsConfig
from diffps.heads.config_rois import BoxConfig, ReIDConfig
from diffps.model import PersonSearcher, Target, apply_init, build_searcher

RESULTS = Path(__file__).parent / "results"
UP3 = "up-level3-repeat0-vit-block0-"
TAPS = TapsConfig(
    detection=f"{UP3}self-k",
    guidance=f"{UP3}cross-map.person",
    level1=("up-level1-repeat2-vit-block0-self-q",),
    level2=("up-level2-repeat2-vit-block0-self-q", "up-level2-repeat1-vit-block0-self-v"),
    level3=("up-level3-repeat1-vit-block0-self-k", f"{UP3}self-v", f"{UP3}self-k", f"{UP3}self-q"),
)
IDENTITIES, QUEUE, PERSONS = 483, 500, 8  # PRW


def shapes(canvas: int) -> dict[str, FeatureShape]:
    """Grids and widths of SD 2.1 on a square canvas."""
    levels = {1: (canvas // 32, 1280), 2: (canvas // 16, 640), 3: (canvas // 8, 320)}
    found = {}
    for name in TAPS.names:
        side, width = levels[int(name[len("up-level")])]
        found[name] = FeatureShape(side, side, 1 if name == TAPS.guidance else width)
    return found


def person_boxes(canvas: int, seed: int = 0) -> Tensor:
    """Standing persons of the size they have in PRW's frames."""
    generator = torch.Generator().manual_seed(seed)
    height = canvas * (0.1 + 0.25 * torch.rand(PERSONS, generator=generator))
    width = height * 0.4
    corner = torch.rand(PERSONS, 2, generator=generator) * torch.stack([canvas - width, canvas - height], dim=1)
    return torch.cat([corner, corner + torch.stack([width, height], dim=1)], dim=1)


def guidance_map(side: int, canvas: int) -> Tensor:
    """A cross-attention map (1, side, side, 1): a blob on every person over noise."""
    centre = torch.arange(side).add(0.5) * canvas / side
    found = 0.05 * torch.rand(side, side, generator=torch.Generator().manual_seed(1))
    for x1, y1, x2, y2 in person_boxes(canvas).tolist():
        blob_y = torch.exp(-(((centre - (y1 + y2) / 2) / (y2 - y1) * 2) ** 2))
        blob_x = torch.exp(-(((centre - (x1 + x2) / 2) / (x2 - x1) * 2) ** 2))
        found = torch.maximum(found, blob_y[:, None] * blob_x)
    return found[None, :, :, None]


def part(module: nn.Module, inputs: list[Tensor], call: Callable[..., Tensor] | None = None) -> Run:
    """Forward and backward with a fixed random gradient; gives the output and the inputs' gradients."""
    module.train()
    call = call or module
    with torch.no_grad():
        grad = torch.randn(call(*inputs).shape, generator=torch.Generator().manual_seed(2)).to(inputs[0].device)

    def run() -> list[Tensor]:
        for tensor in (*inputs, *module.parameters()):
            tensor.grad = None
        out = call(*inputs)
        layout = torch.channels_last if out.dim() == 4 and not out.is_contiguous() else torch.contiguous_format
        out.backward(grad.to(memory_format=layout))
        return [out.detach(), *(tensor.grad for tensor in inputs if tensor.grad is not None)]

    return run


def both(name: str, ours: nn.Module, plain: nn.Module, x: Tensor, *rest: Tensor) -> Measured:
    last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    first = x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    return Measured(name, part(ours, [last, *rest]), part(plain, [first, *rest]))


def from_features(name: str, ours: nn.Module, plain: nn.Module, features: object, device: torch.device) -> Measured:
    nothing = torch.zeros((), device=device)  # taps need no gradient; part() wants an input
    return Measured(
        name,
        part(ours, [nothing], lambda _: ours(features)),
        part(plain, [nothing], lambda _: plain(features)),
    )


def oim_runs(searcher: PersonSearcher, rois: int, device: torch.device) -> Measured:
    """128 samples, half of them labelled persons, several of one identity, and the update of the memory."""
    generator = torch.Generator().manual_seed(3)
    x = F.normalize(torch.randn(rois, searcher.config.embedding.size, generator=generator), dim=1).to(device)
    labels = torch.full((rois,), -2)
    labels[: rois // 2] = torch.randint(0, PERSONS, (rois // 2,), generator=generator)
    labels[rois // 2 : rois // 2 + rois // 8] = -1
    labels = labels.to(device)

    def run(module: nn.Module, x: Tensor) -> Run:
        def step() -> list[Tensor]:
            x.grad = None
            loss = module(x, labels)
            loss.backward()
            module.update()
            return [loss.detach(), x.grad]

        return step

    return Measured(
        "oim",
        run(searcher.oim, x.clone().requires_grad_()),
        run(PlainOIM(searcher.oim), x.clone().requires_grad_()),
    )


def step_runs(
    searcher: PersonSearcher, plain: PersonSearcher, features: dict[str, Feature], target: Target
) -> Measured:
    """Losses of one image, their backward, and the memory."""

    def run(model: PersonSearcher) -> Run:
        model.train()

        def step() -> list[Tensor]:
            torch.manual_seed(0)
            model.zero_grad(set_to_none=True)
            losses = model(features, [target])
            torch.stack(list(losses.values())).sum().backward()
            model.update_memory()
            return [loss.detach() for loss in losses.values()]

        return step

    return Measured("whole step", run(searcher), run(plain))


def measured_parts(canvas: int, config: ModelConfig, device: torch.device) -> list[Callable[[], Measured]]:
    """Makers, so that one part's tensors are gone before the next part's exist."""
    torch.manual_seed(0)
    grids = shapes(canvas)
    searcher = build_searcher(config, TAPS, grids, Canvas(canvas, canvas), torch.randn(4, 1024), IDENTITIES)
    apply_init(searcher, "v1")
    with torch.no_grad():
        searcher.dgrpn.gamma.fill_(0.5)
        searcher.reid_head.sfan.alpha.fill_(0.5)
    # Nothing random may differ between the two sides of a comparison.
    searcher.to(device)
    generator = torch.Generator().manual_seed(4)
    features = {name: Feature(torch.randn(1, *shape, generator=generator).to(device)) for name, shape in grids.items()}
    side = grids[TAPS.detection].height
    features[TAPS.guidance] = Feature(guidance_map(side, canvas).to(device))
    # A network that has learnt finds each person several times; so does this target, for all RoIs to be sampled.
    copies = max(1, config.box.samples // 2 // PERSONS)
    jitter = torch.rand(copies * PERSONS, 4, generator=torch.Generator().manual_seed(6))
    boxes = (person_boxes(canvas).repeat(copies, 1) + jitter).to(device)
    target = Target(boxes, torch.arange(PERSONS, device=device).repeat(copies))
    rois = (config.reid.samples, config.channels, *config.reid.grid)
    box_rois = (config.box.samples, config.channels, *config.box.grid)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(device)

    def encoder() -> Measured:
        head = searcher.reid_head
        plain = PlainPartEncoder(head.encoder)
        x = random(*rois).requires_grad_()
        y = random(rois[0], config.head_channels, rois[2] // 2, rois[3] // 2).requires_grad_()
        last = [t.detach().contiguous(memory_format=torch.channels_last).requires_grad_() for t in (x, y)]
        return Measured(
            "part encoder",
            part(head.encoder, last, lambda *maps: head.encoder(maps)),
            part(plain, [x, y], lambda *maps: plain(maps)),
        )

    guidance = features[TAPS.guidance].values[..., 0]
    return [
        lambda: from_features(
            "aggregation",
            searcher.aggregation,
            PlainFirstLayers(searcher.aggregation),
            features[TAPS.detection],
            device,
        ),
        lambda: both(
            "dgrpn", searcher.dgrpn, PlainDGRPN(searcher.dgrpn), random(1, config.channels, side, side), guidance
        ),
        lambda: from_features("msfrn", searcher.msfrn, PlainMSFRN(searcher.msfrn), features, device),
        lambda: both("box layer4", searcher.box_head.body, own_copy(searcher.box_head.body), random(*box_rois)),
        lambda: both("sfan", searcher.reid_head.sfan, PlainSFAN(searcher.reid_head.sfan), random(*rois)),
        lambda: both("re-id layer4", searcher.reid_head.body, own_copy(searcher.reid_head.body), random(*rois)),
        encoder,
        lambda: oim_runs(searcher, config.reid.samples, device),
        lambda: step_runs(searcher, plain_searcher(searcher), features, target),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--canvas", type=int, default=640)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--rois", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--parts", nargs="*", help="only these")
    options = parser.parse_args()
    if options.quick:
        options.canvas, options.channels, options.rois = 256, 64, 32
    device = torch.device(options.device)
    config = ModelConfig(
        channels=options.channels,
        head_channels=2 * options.channels,
        head_weights="random",
        box=BoxConfig(samples=options.rois),
        reid=ReIDConfig(samples=options.rois),
        oim=OIMConfig(queue=QUEUE),
    )
    config = replace(config, embedding=replace(config.embedding, drop_path=0.0))
    header = [f"{'part':14}"]
    for unit in ("s", "cpu s", "MiB"):
        header += [f"{'ours ' + unit:>9} {'plain ' + unit:>11}", " " * 5]
    print(*header, "difference")
    rows = []
    for make in measured_parts(options.canvas, config, device):
        measured = make()
        if options.parts and measured.name not in options.parts:
            continue
        rows.append(measure(measured, options.repeats, device))
        show(rows[-1])
        del measured
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    result = {
        "benchmark": "heads_parts",
        "canvas": options.canvas,
        "channels": options.channels,
        "rois": options.rois,
        "batch": 1,
        "repeats": options.repeats,
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parts": rows,
    }
    if not options.parts:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"heads_parts_{device.type}_{options.canvas}_{options.channels}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {path}")


if __name__ == "__main__":
    main()

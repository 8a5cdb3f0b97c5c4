"""Training heads on features: a step without input or output, and an iterator of step results.

One loop trains any number of heads from one stream of features. Each head has its own parameters, optimiser, schedule
and random state, so it learns the same numbers, on the CPU bit by bit, whichever heads share the stream.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from diffps.errors import DiffPSError, DivergedError
from diffps.features import Feature, FeatureSource, Ref, expand_once
from diffps.model import PersonSearcher, Target
from diffps.random_stream import RandomStream
from diffps.schedule import Sample, SampleOrder, TrainingConfig

SCALER_START = 2.0**13


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one batch did to one head. ``grad_norm`` (before clipping) is None where the optimiser did not step.

    ``seconds`` the step took, ``waited`` seconds for its features; two results are equal whatever time they took.
    """

    position: int
    epoch: int
    lr: float
    total: float
    losses: dict[str, float]
    grad_norm: float | None
    seconds: float = field(default=0.0, compare=False)
    waited: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class HeadState:
    """Everything a head needs to go on as if nothing had happened: named tensors, and a JSON text for the rest."""

    tensors: dict[str, Tensor]
    scalars: str


class HeadTrainer:
    """One head being trained: model, Adam, schedule, clipping, accumulation, precision and random state.

    ``build`` makes the initialised model under the head's own seed; ``names`` are the features it reads. ``position``
    is the number of batches seen.
    """

    def __init__(
        self,
        build: Callable[[], PersonSearcher],
        names: Sequence[str],
        config: TrainingConfig,
        batches_per_epoch: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config
        self.names = tuple(names)
        self.device = torch.device(device)
        self.batches_per_epoch = batches_per_epoch
        self.position = 0
        self.history: list[StepResult] = []
        self._random = RandomStream(config.seed, self.device)
        with self._random.active():
            self.model = build().to(self.device)
        self.model.train()
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(self._parameters, lr=config.lr)
        self._scaler = torch.amp.GradScaler(
            self.device.type, init_scale=SCALER_START, enabled=config.precision == "float16"
        )

    @property
    def total(self) -> int:
        """Batches in the whole training."""
        return self.config.epochs * self.batches_per_epoch

    @property
    def finished(self) -> bool:
        return self.position >= self.total

    @property
    def settled(self) -> bool:
        """Whether no gradients wait for a step of the optimiser: only then the state is complete."""
        return self.position % self.config.accumulate == 0 or self.finished

    def step(
        self,
        features: Mapping[str, Feature],
        targets: Sequence[Target],
        scene_ids: Sequence[str],
        *,
        waited: float = 0.0,
    ) -> StepResult:
        """Learn from one batch, whose features took ``waited`` seconds to come (kept in the record).

        Raises DivergedError, naming the loss and the scenes, before a NaN reaches a checkpoint.
        """
        config, position, began = self.config, self.position, time.perf_counter()
        dtype: torch.dtype = getattr(torch, config.precision)
        with self._random.active():
            with torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32):
                losses = self.model({name: features[name] for name in self.names}, list(targets))
            weights = asdict(config.weights)
            total = torch.stack([weights[name] * loss.float() for name, loss in losses.items()]).sum()
            values = torch.stack([total, *losses.values()]).detach().tolist()
            named = dict(zip(["total", *losses], values, strict=True))
            broken = [name for name, value in named.items() if name != "total" and not math.isfinite(value)]
            if broken or not math.isfinite(named["total"]):
                first = next(iter(broken), "total")
                raise self._diverged(position, f"loss {', '.join(broken) or first} is {named[first]}", scene_ids)
            self._scaler.scale(total / self._group()).backward()  # type: ignore[no-untyped-call]
            self.model.update_memory()
        lr = config.learning_rate(position, self.batches_per_epoch)
        self.position += 1
        grad_norm = self._optimise(lr, scene_ids) if self.settled else None
        epoch, total_loss = position // self.batches_per_epoch, named.pop("total")
        seconds = time.perf_counter() - began
        result = StepResult(position, epoch, lr, total_loss, named, grad_norm, seconds, waited)
        self.history.append(result)
        return result

    def _group(self) -> int:
        """Batches that make the step of the optimiser this one belongs to: at the end of the training fewer."""
        first = self.position - self.position % self.config.accumulate
        return min(self.config.accumulate, self.total - first)

    def _optimise(self, lr: float, scene_ids: Sequence[str]) -> float | None:
        self._optimizer.param_groups[0]["lr"] = lr
        self._scaler.unscale_(self._optimizer)
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self.config.clip))
        # With float16 an overflow is expected now and then: the scaler skips the step and halves its scale. Below 1
        # the scale makes no gradient larger: what is not finite then is broken.
        if not math.isfinite(norm) and (not self._scaler.is_enabled() or self._scaler.get_scale() < 1):
            raise self._diverged(self.position - 1, f"the gradient's norm is {norm}", scene_ids)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        weights: list[Tensor] = [parameter.detach() for parameter in self._parameters]
        size = float(torch.stack(torch._foreach_norm(weights)).amax())
        if not math.isfinite(size):
            raise self._diverged(self.position - 1, f"the weights' norm is {size}", scene_ids)
        self._optimizer.zero_grad(set_to_none=True)
        return norm if math.isfinite(norm) else None

    def _diverged(self, position: int, what: str, scene_ids: Sequence[str]) -> DivergedError:
        epoch, batch = divmod(position, self.batches_per_epoch)
        where = f"batch {batch} of epoch {epoch}"
        return DivergedError(
            f"training diverged at {where}: {what}; scenes {', '.join(scene_ids)}; "
            "look at these scenes, or lower train.lr or train.clip (a changed setting begins anew)"
        )

    def state(self) -> HeadState:
        """The complete state, on the CPU. Only while :attr:`settled`."""
        assert self.settled
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, parameter in enumerate(self._parameters):
            for name, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{index}.{name}"] = value
        tensors |= {f"random.{name}": state for name, state in self._random.state.items()}
        tensors["history"] = torch.tensor([_row(result) for result in self.history], dtype=torch.float64)
        scalars = {
            "position": self.position,
            "init": self.config.init,
            "scaler": self._scaler.state_dict(),
            "losses": list(self.history[0].losses) if self.history else [],
        }
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        return HeadState(copies, json.dumps(scalars))

    def load_state(self, state: HeadState) -> None:
        """Go on from ``state``, made by a trainer of the same model and settings. Raises DiffPSError on another's."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)}

        scalars = json.loads(state.scalars)
        if scalars.get("init") != self.config.init:
            made = scalars.get("init", "a rule that has no name any more")
            raise DiffPSError(f"checkpoint does not fit: its first weights were made by {made}, not {self.config.init}")
        try:
            self.model.load_state_dict(part("model."))
        except RuntimeError as error:
            raise DiffPSError(f"checkpoint does not fit the model: {str(error).splitlines()[-1].strip()}") from error
        for index, parameter in enumerate(self._parameters):
            saved = part(f"adam.{index}.")
            # Same memory layout as before, so that the same kernels run on it.
            moments = {k: torch.empty_like(parameter).copy_(v) for k, v in saved.items() if k != "step"}
            if saved:
                self._optimizer.state[parameter] = {"step": saved["step"].clone(), **moments}
        self._random.state = part("random.")
        self.position = scalars["position"]
        self._scaler.load_state_dict(scalars["scaler"])
        self.history = [_result(row, scalars["losses"]) for row in state.tensors["history"].tolist()]


class TargetsOf(Protocol):
    """What is to be found in a scene, in the canvas frame."""

    def __call__(self, sample: Sample) -> Target: ...


def train_heads(
    heads: Mapping[str, HeadTrainer],
    source: FeatureSource,
    order: SampleOrder,
    targets: TargetsOf,
    *,
    mirror_features: bool = False,
) -> Iterator[dict[str, StepResult | DivergedError]]:
    """Train every head to its end from one stream; one mapping per batch, of the heads that saw it.

    A head that diverges gives its error once and leaves; a finished head leaves; heads resumed at different positions
    are caught up with. Mirrored samples are read from the view ``hflip``, with ``mirror_features`` flipped in memory.
    """
    active = {name: head for name, head in heads.items() if not head.finished}
    while active:
        start = min(head.position for head in active.values())
        stop = min(head.total for head in active.values())
        names = sorted({name for head in active.values() for name in head.names})
        refs = ([_ref(sample, mirror_features) for sample in batch] for batch in order.batches(start, stop))
        stream = _timed(source.stream(refs, names))
        batches = zip(order.batches(start, stop), stream, strict=True)
        for position, (batch, (features, waited)) in enumerate(batches, start):
            device = next(iter(active.values())).device
            mirror = torch.tensor([sample.mirrored for sample in batch]) if mirror_features else None
            shared = {name: expand_once(feature, mirror, device) for name, feature in features.items()}
            persons = [_to(targets(sample), device) for sample in batch]
            results: dict[str, StepResult | DivergedError] = {}
            scene_ids = [sample.scene_id for sample in batch]
            for name, head in active.items():
                if head.position == position:
                    try:
                        results[name] = head.step(shared, persons, scene_ids, waited=waited)
                    except DivergedError as error:
                        results[name] = error
            for name, result in results.items():
                if isinstance(result, DivergedError):
                    del active[name]
            yield results
            if not active:
                return
        active = {name: head for name, head in active.items() if not head.finished}


def _timed(stream: Iterator[Mapping[str, Feature]]) -> Iterator[tuple[Mapping[str, Feature], float]]:
    began = time.perf_counter()
    for features in stream:
        yield features, time.perf_counter() - began
        began = time.perf_counter()


def _to(target: Target, device: torch.device) -> Target:
    return Target(target.boxes.to(device), target.identities.to(device))


def _row(result: StepResult) -> list[float]:
    norm = math.nan if result.grad_norm is None else result.grad_norm
    fixed = [result.position, result.epoch, result.lr, result.total, norm, result.seconds, result.waited]
    return [*fixed, *result.losses.values()]


def _result(row: Sequence[float], names: Sequence[str]) -> StepResult:
    position, epoch, lr, total, norm, seconds, waited, *losses = row
    named = dict(zip(names, losses, strict=True))
    return StepResult(int(position), int(epoch), lr, total, named, None if math.isnan(norm) else norm, seconds, waited)


def _ref(sample: Sample, mirror_features: bool) -> Ref:
    return Ref(sample.scene_id, "hflip" if sample.mirrored and not mirror_features else "identity")

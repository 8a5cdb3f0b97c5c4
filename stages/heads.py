"""Heads being trained into folders: what ``train`` does with one and ``sweep`` with many.

A folder holds ``checkpoint/`` (to go on from), and once the head is finished ``head/`` (to use), ``losses.csv`` and
``metrics.json``.
"""

import csv
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffps.cards import CardFacts, with_scores, write_card
from diffps.errors import CheckpointError, ConfigError, DivergedError
from diffps.features import FeatureShape, FeatureSource
from diffps.model import PersonSearcher, apply_init, build_searcher
from diffps.training import HeadState, HeadTrainer, train_heads
from stages.encode import WORDS_FILE
from stages.files import replace_file, replace_folder, replace_text, write_json
from stages.job import Job, StoppedError
from stages.settings import code_digest, difference, features_digest, settings
from stages.training_set import TrainingSet, check_searchable
from stages.validation import held_out_map

if TYPE_CHECKING:
    from stages.params import Params
    from stages.sources import Source

SAVE_SECONDS = 60.0
CURVE_ROWS = 1000  # a longer training is averaged down to this many rows of losses.csv


class HeadRun:
    """One head and the folder it is trained into."""

    def __init__(
        self,
        params: "Params",
        data: TrainingSet,
        source: "Source",
        device: torch.device,
        folder: Path,
    ) -> None:
        self.params, self.data, self.folder = params, data, folder
        self._shapes, self._recipe = source.shapes, source.recipe
        self.diverged: DivergedError | None = None
        self.best: tuple[float, int] | None = None  # mAP on held-out identities, epoch
        config = params.train
        if config.checkpoint == "best":
            check_searchable(data.held_out)

        def build() -> PersonSearcher:
            return build_model(params, self._shapes, data.identities)

        self.trainer = HeadTrainer(build, config.taps.names, config, data.order.batches_per_epoch, device)
        self._settings = settings(params) | {
            "data": data.digest(),
            "store": features_digest(params, ["train"]),
            "code": code_digest(),
        }

    @property
    def _state_file(self) -> Path:
        return self.folder / "checkpoint" / "state.safetensors"

    @property
    def _best_file(self) -> Path:
        """By epoch: a checkpoint from before a later best still has its own weights."""
        assert self.best is not None
        return self.folder / "checkpoint" / f"best-{self.best[1]}.safetensors"

    def resume(self) -> str:
        """Go on from the folder's checkpoint where it is of the same settings; says what was found."""
        path = self._state_file
        for partial in path.parent.glob(".*.tmp"):  # of a process that was killed while it wrote
            partial.unlink()
        if not path.exists():
            return f"{self.folder}: training starts"
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            stored = json.loads(metadata["settings"])
            tensors = load_file(path) if stored == self._settings else {}
        except Exception as error:
            raise CheckpointError(
                f"{path}: not a checkpoint of this program ({error}); delete it to begin anew"
            ) from error
        if stored != self._settings:
            return f"{self.folder}: training starts anew, for {difference(stored, self._settings)}"
        self.trainer.load_state(HeadState(tensors, metadata["scalars"]))
        best = json.loads(metadata["best"])
        self.best = None if best is None else (best[0], best[1])
        done = f"{self.trainer.position} of {self.trainer.total} batches"
        return f"{self.folder}: {'finished' if self.trainer.finished else 'goes on'} ({done} done)"

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = self.trainer.state()
        texts = {"scalars": state.scalars, "settings": json.dumps(self._settings), "best": json.dumps(self.best)}
        replace_file(self._state_file, lambda path: save_file(state.tensors, path, texts))
        for path in self._state_file.parent.glob("best-*.safetensors"):
            if self.best is None or path != self._best_file:
                path.unlink()

    def end_epoch(self, source: FeatureSource) -> None:
        """Keep the weights where they are the best so far on the held-out identities."""
        if self.params.train.checkpoint != "best":
            return
        score = held_out_map(self.trainer, self.data, source)
        if self.best is None or score > self.best[0]:
            self.best = (score, self.trainer.position // self.trainer.batches_per_epoch - 1)
            tensors = {name: t.detach().cpu().contiguous() for name, t in self.trainer.model.state_dict().items()}
            replace_file(self._best_file, lambda path: save_file(tensors, path))

    def finish(self) -> PersonSearcher:
        """Write the head, its losses and metrics; gives the model with the weights chosen, for evaluation."""
        model = self.trainer.model
        if self.best is not None:
            model.load_state_dict(load_file(self._best_file))
        model.eval()
        card = write_card(self._facts())

        def write(folder: Path) -> None:
            facts = {"recipe": self._recipe, "scenes": len(self.data.order.scene_ids)}
            model.save_pretrained(folder, {"training": self._settings["train"], **facts})
            (folder / "README.md").write_text(card, encoding="utf-8")

        replace_folder(self.folder / "head", write)
        replace_file(self.folder / "losses.csv", self._write_losses)
        write_json(self.folder / "metrics.json", self.metrics())
        return model

    def add_scores(self, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        """Put the scores of an evaluation on the finished head's card."""
        card = self.folder / "head" / "README.md"
        replace_text(card, with_scores(card.read_text(encoding="utf-8"), metrics))

    def metrics(self) -> dict[str, Any]:
        """Counts, times and the mean losses of the last epoch."""
        history, trainer = self.trainer.history, self.trainer
        last = [result for result in history if result.epoch == history[-1].epoch]
        seconds: dict[int, float] = {}
        for result in history:
            seconds[result.epoch] = seconds.get(result.epoch, 0.0) + result.seconds + result.waited
        found: dict[str, Any] = {
            "images": len(self.data.order.scene_ids),
            "identities": self.data.identities,
            "epochs": len(seconds),
            "steps": len(history),
            "seconds": sum(seconds.values()),
            "seconds_per_epoch": statistics.median(seconds.values()),
            "seconds_waiting": sum(result.waited for result in history),
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            "device": str(trainer.device),
            "loss": statistics.fmean(result.total for result in last),
            "losses": {name: statistics.fmean(result.losses[name] for result in last) for name in last[0].losses},
        }
        if self.best is not None:
            found |= {"held_out_map": self.best[0], "best_epoch": self.best[1]}
        return found

    def _write_losses(self, path: Path) -> None:
        history = self.trainer.history
        window = -(-len(history) // CURVE_ROWS)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "epoch", "lr", "total", *history[0].losses, "grad_norm"])
            for start in range(0, len(history), window):
                part = history[start : start + window]
                columns = zip(*([r.total, *r.losses.values()] for r in part), strict=True)
                norms = [result.grad_norm for result in part if result.grad_norm is not None]
                means = [statistics.fmean(column) for column in columns] + ([statistics.fmean(norms)] if norms else [])
                writer.writerow([part[-1].position, part[-1].epoch, *(f"{x:.6g}" for x in (part[-1].lr, *means))])

    def _facts(self) -> CardFacts:
        params, recipe = self.params, self._recipe
        revision = f"@{params.encode.revision}" if params.encode.revision else ""
        digests = f"UNet {recipe['unet']}, VAE {recipe['latent']['vae']}, text encoder {recipe['text_encoder']}"
        features = {name: value for name, value in asdict(params.extract).items() if name not in ("taps", "timesteps")}
        return CardFacts(
            dataset=params.index.dataset,
            backbone=f"{params.encode.checkpoint}{revision} ({digests})",
            features={"timestep": params.train.timestep, "canvas": self._settings["canvas"], **features},
            settings=self._settings["train"],
            scenes=len(self.data.order.scene_ids),
            identities=self.data.identities,
            parameters=sum(p.numel() for p in self.trainer.model.parameters()),
            scores={} if self.best is None else {"held-out mAP (ground-truth boxes)": self.best[0]},
        )


def train_all(runs: Mapping[str, HeadRun], source: FeatureSource, job: Job, done: Callable[[str], object]) -> None:
    """Train every run to its end from one stream, saving now and then, and call ``done`` with each that is finished.

    All runs have the same order of samples. A head that diverges gets its ``diverged`` set instead. Raises
    StoppedError, everything saved, when the job is to stop.
    """
    for name in [name for name, run in runs.items() if run.trainer.finished]:
        done(name)
    data = next(iter(runs.values())).data
    heads = {name: run.trainer for name, run in runs.items()}
    left = sum(head.total - head.position for head in heads.values())
    unsaved: set[str] = set()
    saved_at, stopping = time.monotonic(), False
    with job.track("train", left, "batches") as tracker:
        steps = train_heads(heads, source, data.order, data.target, mirror_features=data.mirror_features)
        for results in steps:
            for name, result in results.items():
                run = runs[name]
                if isinstance(result, DivergedError):
                    run.diverged = result
                    job.say(f"{run.folder}: {result}")
                elif run.trainer.position % data.order.batches_per_epoch == 0:
                    run.end_epoch(source)
            tracker.advance(len(results))
            going = {name for name in results if runs[name].diverged is None}
            if time.monotonic() - saved_at >= SAVE_SECONDS or (job.stopping and not stopping):
                unsaved |= going
                saved_at, stopping = time.monotonic(), job.stopping
            unsaved = (unsaved & going) | {name for name in going if heads[name].finished}
            # A head that has gathered half a step's gradients is saved some batches later.
            for name in [name for name in unsaved if heads[name].settled]:
                runs[name].save()
                unsaved.remove(name)
                if heads[name].finished:
                    done(name)
            if stopping and not unsaved:
                raise StoppedError("training stopped; the same command goes on")


def build_model(params: "Params", shapes: Mapping[str, FeatureShape], identities: int) -> PersonSearcher:
    """The model of section ``train``, initialised from torch's global generator."""
    config = params.train
    words = None if config.model.sfan is None else read_words()
    model = build_searcher(config.model, config.taps, shapes, params.encode.frame, words, identities)
    apply_init(model, config.init)
    return model


def read_words() -> Tensor:
    """Embeddings (W, T) of ``encode.words``. Raises ConfigError where encode has not run."""
    if not WORDS_FILE.exists():
        raise ConfigError(f"{WORDS_FILE} is missing: run `diffps encode` first")
    return load_file(WORDS_FILE)["embeddings"]

"""A head being trained into a folder: what ``train`` does with one and ``sweep`` with many.

The folder holds ``checkpoint/`` (to go on from), and once the head is finished ``head/`` (to use), ``metrics.json`` and
``scores.json``; ``losses.csv`` grows from the beginning.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from cache.errors import CacheError
from cache.files import read_bytes, remove, write_folder, write_json, write_text
from cache.sealed import read_sealed, seal_folder, tensors_metadata, write_tensors
from diffps.cards import with_scores, write_card
from diffps.errors import CheckpointError, DivergedError
from diffps.features import FeatureSource
from diffps.model import PersonSearcher
from diffps.training import HeadState, HeadTrainer, StepResult
from stages.config_heads import TrainConfig
from stages.head.data import TrainingSet, check_searchable
from stages.head.identity import HeadIdentity, difference
from stages.head.model import new_model
from stages.head.results import Best, card_facts, training_metrics
from stages.head.validation import held_out_map
from stages.head.watching import LossFile
from stages.together import begin, finish, sealed_head

Judge = Callable[[HeadTrainer, TrainingSet, FeatureSource], float]


class HeadRun:
    """One head and the folder it is trained into. ``words`` (W, D): text embeddings, None where SFAN is off. ``judge``
    scores it after an epoch, the higher the better, where the best weights are kept."""

    def __init__(
        self,
        train: TrainConfig,
        data: TrainingSet,
        source: FeatureSource,
        words: Tensor | None,
        identity: HeadIdentity,
        folder: Path,
        device: torch.device,
        judge: Judge = held_out_map,
    ) -> None:
        self.data, self.folder, self.identity, self._judge = data, folder, identity, judge
        self.diverged: DivergedError | None = None
        self.best: Best | None = None
        self._keep_best, self._recipe = train.checkpoint == "best", source.recipe
        if self._keep_best:
            check_searchable(data.held_out)
        shapes = source.shapes

        def build() -> PersonSearcher:
            return new_model(train, data.canvas, shapes, words, data.identities)

        self.trainer = HeadTrainer(build, train.taps.names, train, data.order.batches_per_epoch, device)
        self._losses = LossFile(folder / "losses.csv", self.trainer.total)
        self._settings = {**identity.settings, "data": data.digest()}

    @property
    def _state_file(self) -> Path:
        return self.folder / "checkpoint" / "state.safetensors"

    @property
    def _anew(self) -> str:
        return f"deleting {self.folder / 'checkpoint'} and running the same command again"

    @property
    def _best_file(self) -> Path:
        """By epoch: a checkpoint from before a later best still has its own weights."""
        assert self.best is not None
        return self.folder / "checkpoint" / f"best-{self.best[1]}.safetensors"

    def resume(self) -> str:
        """Go on from the folder's checkpoint where it is of the same settings; says what was found.

        Raises DamagedError, CheckpointError for a file that is no checkpoint.
        """
        found = self._load()
        begin(self.folder)  # losses.csv grows from now on beside what an earlier training left
        self._losses.begin(self.trainer.history)
        return found

    def _load(self) -> str:
        path = self._state_file
        if not path.exists():
            return f"{self.folder}: training starts"
        try:
            data = read_sealed(path, self._anew)
            metadata = tensors_metadata(data)
            stored = json.loads(metadata["settings"])
            tensors = load(data) if stored == self._settings else {}
        except CacheError:
            raise
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

    def record(self, result: StepResult) -> None:
        """One more step, into losses.csv."""
        self._losses.add(result)

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = self.trainer.state()
        texts = {"scalars": state.scalars, "settings": json.dumps(self._settings), "best": json.dumps(self.best)}
        write_tensors(self._state_file, save(state.tensors, texts))
        for path in self._state_file.parent.glob("best-*.safetensors"):
            if self.best is None or path != self._best_file:
                remove(path)

    def end_epoch(self, source: FeatureSource) -> None:
        """Keep the weights where they are the best so far on the held-out identities."""
        if not self._keep_best:
            return
        score = self._judge(self.trainer, self.data, source)
        if self.best is None or score > self.best[0]:
            self.best = (score, self.trainer.position // self.trainer.batches_per_epoch - 1)
            tensors = {name: t.detach().cpu().contiguous() for name, t in self.trainer.model.state_dict().items()}
            write_tensors(self._best_file, save(tensors))

    def finish(self) -> PersonSearcher:
        """Write the head, its losses and metrics; gives the model with the weights chosen, for evaluation."""
        model = self.trainer.model
        if self.best is not None:
            model.load_state_dict(load(read_sealed(self._best_file, self._anew)))
        model.eval()
        card = write_card(card_facts(self.identity, self._recipe, self.trainer, self.data, self.best))

        def write(folder: Path) -> None:
            facts = {
                "training": self._settings["train"],
                "reading": self.identity.reading.to_json(),
                "recipe": self._recipe,
                "dataset": self.identity.dataset,
                "backbone": self.identity.backbone,
                "scenes": len(self.data.order.scene_ids),
            }
            model.save_pretrained(folder, facts)
            (folder / "README.md").write_text(card, encoding="utf-8")
            seal_folder(folder)

        begin(self.folder)
        write_folder(self.folder / "head", write)
        self._losses.end(self.trainer.history)
        metrics = self.metrics()
        write_json(self.folder / "metrics.json", metrics)
        write_json(self.folder / "scores.json", {name: metrics[name] for name in ("loss", "seconds")})
        written = ("losses.csv", "metrics.json", "scores.json")
        finish(self.folder, written, {"head": sealed_head(self.folder / "head")})
        return model

    def add_scores(self, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        """Put the scores of an evaluation on the finished head's card."""
        card = self.folder / "head" / "README.md"
        write_text(card, with_scores(read_bytes(card).decode(), metrics))
        seal_folder(card.parent)

    def metrics(self) -> dict[str, Any]:
        """Counts, times and the mean losses of the last epoch."""
        return training_metrics(self.trainer, self.data, self.best)

"""A folder in diffusers' layout whose parts are told by name: where their weights lie, who they are, loading them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffps.backbone.configs import ConfigPart, complete
from diffps.backbone.parts import DiffusersModel, check_tensors, load
from diffps.backbone.weights import Weights, find_weights, read_json
from diffps.errors import CheckpointError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PartsFolder:
    """``parts``: folders of ``root`` that hold weights, each with what it is. ``name`` is what the user called it;
    ``variant`` (fp16) names the weights to take. Raises CheckpointError where a part or its weights are missing."""

    root: Path
    name: str
    parts: Mapping[str, ConfigPart]
    variant: str | None = None

    def __post_init__(self) -> None:
        for part, kind in self.parts.items():
            if not (self.root / part).is_dir():
                what = "T5, the text encoder" if kind == "t5" else "a part"
                raise CheckpointError(
                    f"checkpoint {self.name}: {part}/ is missing in {self.root}: {what} that this model attends to; "
                    f"`hf download OWNER/NAME --include '{part}/*' --local-dir {self.root}` puts it there"
                )
            self.weights(part)

    def config(self, part: str) -> dict[str, Any]:
        """The part's config, with the library's defaults for what its file leaves out. Raises CheckpointError."""
        path = self.root / part / "config.json"
        return complete(self.parts[part], read_json(path), f"checkpoint {self.name}: {path}")

    def scheduler(self) -> dict[str, Any]:
        """What scheduler_config.json says. Raises CheckpointError."""
        return read_json(self.root / "scheduler" / "scheduler_config.json")

    def weights(self, part: str) -> Weights:
        """Where the part's tensors lie. Raises CheckpointError where there are none."""
        stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
        return Weights(self.parts[part], find_weights(self.root / part, stem, self.variant), self.config(part))

    def digests(self) -> Mapping[str, str]:
        """The digest of every part's config and tensors."""
        return self._digests

    def check_tensors(self) -> None:
        """Compare tensors with the configs, from headers alone. Raises CheckpointError."""
        for part in self.parts:
            check_tensors(self.weights(part))

    def load(self, part: str, dtype: "torch.dtype") -> DiffusersModel:
        """The part in ``dtype`` on the CPU, frozen, in eval mode. Raises CheckpointError."""
        return load(self.weights(part), dtype)

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {part: self.weights(part).digest() for part in self.parts}

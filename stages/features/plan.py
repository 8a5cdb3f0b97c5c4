"""The plan of a pass: checkpoint, prompt, and the arrays that sections ``encode`` and ``extract`` ask for."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache import ArraySpec, Basis, Encoding, fingerprint, parse_encoding
from cache.encodings import Project
from cache.errors import DamagedError
from cache.files import write_atomic
from diffps.backbone.checkpoint import load_checkpoint
from diffps.backbone.prompts import PromptEncoder
from diffps.records import Split, View
from diffps.taps import FeatureName, TapSpec, check_taps
from stages.config_data import EncodeConfig, ExtractConfig
from stages.features.recipes import latent_recipe, map_spec, moments_spec, pass_recipe, tap_spec


class PassPlan:
    """Checkpoint, prompt, recipes and arrays of one pass over the store at ``root``. Loads the text side, not the UNet.

    Raises CheckpointError, UnknownTapError, PromptError.
    """

    def __init__(self, encode: EncodeConfig, extract: ExtractConfig, root: Path) -> None:
        self.encode, self.extract, self.root = encode, extract, root
        self.checkpoint = load_checkpoint(encode.checkpoint, encode.revision, extract.unet)
        check_taps(extract.taps, self.checkpoint.taps)
        encoder = PromptEncoder(self.checkpoint)
        self.prompt = encoder.encode(extract.prompt, extract.words)
        self._pad_token = encoder.pad_token

    def recipe(self, view: View) -> dict[str, Any]:
        """Recipe of the pass over one view."""
        latent = latent_recipe(self.encode, self.checkpoint, view)
        return pass_recipe(latent, self.extract, self.checkpoint, self.prompt, self._pad_token)

    def moments(self, split: Split, view: View) -> ArraySpec:
        """The array of moments that the pass starts from."""
        return moments_spec(self.encode, self.checkpoint, split, view)

    def specs(self, split: Split, view: View, timestep: int) -> dict[str, ArraySpec]:
        """Every array of one split, view and timestep, by the name heads use."""
        extract, recipe = self.extract, self.recipe(view)
        specs = {}
        for tap in (self.checkpoint.taps[name] for name in extract.taps):
            if tap.kind == "grid":
                encoding = self.encoding(tap, timestep)
                specs[tap.id] = tap_spec(tap, recipe, split, view, timestep, encoding)
                continue
            for word, span in self.prompt.spans.items():
                spec = map_spec(tap, recipe, split, view, timestep, word, span, extract.head)
                specs[str(FeatureName(tap.id, word))] = spec
        return specs

    def arrays(self) -> list[ArraySpec]:
        """Every array encode and extract keep, of both splits."""
        splits: tuple[Split, Split] = ("train", "test")
        found = []
        for split in splits:
            for view in self.encode.views_of(split):
                found.append(self.moments(split, view))
                for timestep in self.extract.timesteps:
                    found += self.specs(split, view, timestep).values()
        return found

    def encoding(self, tap: TapSpec, timestep: int) -> Encoding:
        """The encoding of a grid tap; ``project:k`` has a basis once :meth:`keep_basis` has run."""
        encoding = parse_encoding(self.extract.encoding)
        if not isinstance(encoding, Project):
            return encoding
        path = self._basis_file(tap.id, timestep)
        if not path.is_file():
            return encoding
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return Project(encoding.k, Basis(arrays["mean"], arrays["vectors"]))
        except Exception as error:  # a torn archive fails in many ways
            raise DamagedError(
                f"{path}: the basis cannot be read ({type(error).__name__}); delete the file, "
                "`diffps extract` fits it again"
            ) from error

    def unfitted(self, timesteps: Sequence[int]) -> list[int]:
        """Those of ``timesteps`` at which ``project:k`` still lacks the basis of a tap."""
        if not isinstance(parse_encoding(self.extract.encoding), Project):
            return []
        return [timestep for timestep in timesteps if self.without_basis(timestep)]

    def without_basis(self, timestep: int) -> list[str]:
        """Grid taps that ``project:k`` has no basis for; one that is there is never fitted again."""
        grids = [tap for tap in self.extract.taps if self.checkpoint.taps[tap].kind == "grid"]
        return [tap for tap in grids if not self._basis_file(tap, timestep).is_file()]

    def keep_basis(self, tap: str, timestep: int, basis: Basis) -> None:
        """Make ``basis`` that of ``tap``, for every split and view."""
        archive = io.BytesIO()
        np.savez(archive, mean=basis.mean, vectors=basis.vectors)
        write_atomic(self._basis_file(tap, timestep), archive.getvalue())

    def _basis_file(self, tap: str, timestep: int) -> Path:
        name = fingerprint(self.recipe("identity"))
        return self.root / "bases" / name / f"t{timestep}" / f"{tap}@{self.extract.encoding}.npz"

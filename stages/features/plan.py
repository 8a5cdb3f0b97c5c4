"""The plan of a pass: prior, words, and the arrays that sections ``encode`` and ``extract`` ask for."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache import ArraySpec, Basis, Encoding, FeatureStore, fingerprint, parse_encoding
from cache.encodings import Project
from cache.errors import DamagedError
from cache.files import write_bytes
from diffps.backbone.prior import check_pass
from diffps.records import Split, View
from diffps.taps import FeatureName, TapSpec
from stages.config_data import EncodeConfig, ExtractConfig
from stages.features.priors import prior_of
from stages.features.recipes import map_spec, moments_spec, pass_recipe, start_recipe, tap_spec


class PassPlan:
    """Prior, words, recipes and arrays of one pass over ``store``. Loads a text encoder at most.

    Raises CheckpointError, UnknownTapError, PromptError; ConfigError for what the prior cannot be asked for.
    """

    def __init__(self, encode: EncodeConfig, extract: ExtractConfig, store: FeatureStore) -> None:
        self.encode, self.extract, self.store = encode, extract, store
        self.prior = prior_of(encode, extract.unet)
        check_pass(self.prior, encode.canvas, extract.taps, extract.timesteps, extract.conditions)
        self._tokens = self.prior.tokens(extract.conditions)

    def recipe(self, view: View) -> dict[str, Any]:
        """Recipe of the pass over one view."""
        return pass_recipe(self.extract, self.prior, start_recipe(self.encode, self.prior, view))

    def moments(self, split: Split, view: View) -> ArraySpec:
        """The array of moments that the pass of a prior with a VAE starts from."""
        return moments_spec(self.encode, self.prior, split, view)

    def specs(self, split: Split, view: View, timestep: int) -> dict[str, ArraySpec]:
        """Every array of one split, view and timestep, by the name heads use."""
        extract, recipe = self.extract, self.recipe(view)
        specs = {}
        for tap in (self.prior.taps[name] for name in extract.taps):
            if tap.kind == "grid":
                encoding = self.encoding(tap, timestep)
                specs[tap.id] = tap_spec(tap, recipe, split, view, timestep, encoding)
                continue
            for word, tokens in self._tokens.items():
                spec = map_spec(tap, recipe, split, view, timestep, word, tokens, extract.head)
                specs[str(FeatureName(tap.id, word))] = spec
        return specs

    def arrays(self) -> list[ArraySpec]:
        """Every array encode and extract keep, of both splits."""
        splits: tuple[Split, Split] = ("train", "test")
        found = []
        for split in splits:
            for view in self.encode.views_of(split):
                found += [] if self.prior.latent_channels is None else [self.moments(split, view)]
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
        grids = [tap for tap in self.extract.taps if self.prior.taps[tap].kind == "grid"]
        return [tap for tap in grids if not self._basis_file(tap, timestep).is_file()]

    def keep_basis(self, tap: str, timestep: int, basis: Basis) -> None:
        """Make ``basis`` that of ``tap``, for every split and view."""
        archive = io.BytesIO()
        np.savez(archive, mean=basis.mean, vectors=basis.vectors)
        write_bytes(self._basis_file(tap, timestep), archive.getvalue())

    def _basis_file(self, tap: str, timestep: int) -> Path:
        name = fingerprint(self.recipe("identity"))
        return self.store.root / "bases" / name / f"t{timestep}" / f"{tap}@{self.extract.encoding}.npz"

"""One pass of the UNet: what defines it, and the UNet that runs it. Extraction and the live source share both."""

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache import ArraySpec, Basis, Encoding, fingerprint, fit_basis, parse_encoding
from cache.encodings import Project
from cache.errors import DamagedError
from cache.files import write_atomic
from diffps.backbone.capture import Request
from diffps.backbone.checkpoint import load_checkpoint
from diffps.backbone.frozen import Extractor, on_device, torch_dtype
from diffps.backbone.latents import NoiseKey, scaled_latents
from diffps.backbone.prompts import PromptEncoder
from diffps.records import Split, View
from diffps.taps import TapSpec, check_taps, map_name
from stages.job import RuntimeConfig
from stages.recipes import latent_recipe, map_spec, pass_recipe, tap_spec
from stages.shards import chunks, padded

if TYPE_CHECKING:
    from stages.params import Params

CPU_BATCH = 4  # 1.45 times the images per second of one by one on two cores; more gives nothing
BASIS_POSITIONS = 1024  # per image


class Pass:
    """Checkpoint, prompt, recipes and arrays of section ``extract``. Loads the text side, not the UNet.

    ``root`` is the store's folder. Raises CheckpointError, UnknownTapError, PromptError.
    """

    def __init__(self, params: "Params", root: Path) -> None:
        encode, extract = params.encode, params.extract
        self.params, self.root = params, root
        self.checkpoint = load_checkpoint(encode.checkpoint, encode.revision, extract.unet)
        check_taps(extract.taps, self.checkpoint.taps)
        encoder = PromptEncoder(self.checkpoint)
        self.prompt = encoder.encode(extract.prompt, extract.words)
        self._pad_token = encoder.pad_token

    def recipe(self, view: View) -> dict[str, Any]:
        """What decides the pass over one view."""
        latent = latent_recipe(self.params.encode, self.checkpoint, view)
        return pass_recipe(latent, self.params.extract, self.checkpoint, self.prompt, self._pad_token)

    def specs(self, split: Split, view: View, timestep: int) -> dict[str, ArraySpec]:
        """Every array of one split, view and timestep, by the name heads use."""
        extract, recipe = self.params.extract, self.recipe(view)
        specs = {}
        for tap in (self.checkpoint.taps[name] for name in extract.taps):
            if tap.kind == "grid":
                encoding = self.encoding(tap, timestep)
                specs[tap.id] = tap_spec(tap, recipe, split, view, timestep, encoding)
                continue
            for word, span in self.prompt.spans.items():
                spec = map_spec(tap, recipe, split, view, timestep, word, span, extract.head)
                specs[map_name(tap.id, word)] = spec
        return specs

    def encoding(self, tap: TapSpec, timestep: int) -> Encoding:
        """The encoding of a grid tap; ``project:k`` has a basis once :meth:`fit` has run."""
        encoding = parse_encoding(self.params.extract.encoding)
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

    def unfitted(self, *timesteps: int) -> list[int]:
        """Those of ``timesteps`` at which ``project:k`` still lacks the basis of a tap."""
        if not isinstance(parse_encoding(self.params.extract.encoding), Project):
            return []
        return [timestep for timestep in timesteps if self.without_basis(timestep)]

    def fit(
        self,
        runner: "PassRunner",
        images: Sequence[tuple[NoiseKey, NDArray[Any]]],
        timesteps: Sequence[int],
        batch: int,
    ) -> None:
        """Fit the bases of ``project:k`` on ``images``: (key, moments) of training images, identity view."""
        for timestep in self.unfitted(*timesteps):
            fits = {tap: BasisFit(self.params.extract.seed) for tap in self.without_basis(timestep)}
            for chunk in chunks(images, batch):
                for features in runner.features(chunk, timestep, batch):
                    for tap, fit in fits.items():
                        fit.add(features[tap])
            for tap, fit in fits.items():
                self.keep_basis(tap, timestep, fit)

    def without_basis(self, timestep: int) -> list[str]:
        """Grid taps that ``project:k`` has no basis for; one that is there is never fitted again."""
        grids = [tap for tap in self.params.extract.taps if self.checkpoint.taps[tap].kind == "grid"]
        return [tap for tap in grids if not self._basis_file(tap, timestep).is_file()]

    def keep_basis(self, tap: str, timestep: int, fit: "BasisFit") -> None:
        """Make ``fit`` the basis of ``tap``, for every split and view."""
        encoding = parse_encoding(self.params.extract.encoding)
        assert isinstance(encoding, Project)
        basis = fit.basis(encoding.k)
        archive = io.BytesIO()
        np.savez(archive, mean=basis.mean, vectors=basis.vectors)
        write_atomic(self._basis_file(tap, timestep), archive.getvalue())

    def _basis_file(self, tap: str, timestep: int) -> Path:
        name = fingerprint(self.recipe("identity"))
        return self.root / "bases" / name / f"t{timestep}" / f"{tap}@{self.params.extract.encoding}.npz"


class BasisFit:
    """Gathers a seeded sample of positions of one tap: of equal features the same ones, whatever else is asked for."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._rows: list[NDArray[Any]] = []

    def add(self, feature: NDArray[Any]) -> None:
        """``feature`` (H, W, C) of the next image."""
        rows = feature.reshape(-1, feature.shape[-1])
        chosen = self._generator.permutation(len(rows))[:BASIS_POSITIONS]
        self._rows.append(rows[chosen])

    def basis(self, k: int) -> Basis:
        """The first ``k`` principal channels. Raises EncodingError where there are not as many."""
        return fit_basis(np.concatenate(self._rows), k)


class PassRunner:
    """The UNet of a pass on its device."""

    def __init__(self, setting: Pass, device: torch.device, compiled: bool = False) -> None:
        checkpoint, extract = setting.checkpoint, setting.params.extract
        vae = checkpoint.config("vae")
        self._extract, self._device = extract, device
        self._factors = float(vae["scaling_factor"]), float(vae.get("shift_factor") or 0.0)
        unet = on_device(checkpoint.load_unet(torch_dtype(extract.dtype)), device)
        request = Request(tuple(extract.taps), setting.prompt.spans, extract.head)
        self._stack = ExitStack()
        alphas = checkpoint.alphas_cumprod()
        self._extractor = self._stack.enter_context(
            Extractor(unet, checkpoint.taps, alphas, request, setting.prompt.embedding, compiled=compiled)
        )

    def close(self) -> None:
        """Take the hooks off the UNet."""
        self._stack.close()

    def features(
        self, images: Sequence[tuple[NoiseKey, NDArray[Any]]], timestep: int, batch: int
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Features of up to ``batch`` images, given as (key, moments (h, w, 8)), in one forward of ``batch`` places.

        For each image {name: (H, W, C)}, float32, or float16 when the UNet computes in half precision.
        """
        extract = self._extract
        moments = padded([torch.from_numpy(value) for _, value in images], batch)
        if moments is None:
            return
        keys = [key for key, _ in images] + [NoiseKey("", "identity")] * (batch - len(images))
        latents = scaled_latents(moments, extract.latent, keys, extract.seed, *self._factors)
        found = self._extractor.features(latents, timestep, extract.noise, keys, extract.seed)
        arrays = {name: _numpy(value[: len(images)]) for name, value in found.items()}
        for row in range(len(images)):
            yield {name: value[row] for name, value in arrays.items()}


def unet_batch(runtime: RuntimeConfig, device: str) -> int:
    """Images the UNet takes at once, to begin with: halved where they do not fit."""
    return runtime.batch or (CPU_BATCH if device == "cpu" else runtime.shard)


def _numpy(value: torch.Tensor) -> NDArray[Any]:
    # The store has no bfloat16; what overflows float16 becomes infinite and is refused there.
    value = value.half() if value.dtype == torch.bfloat16 else value
    return value.contiguous().cpu().numpy()

"""Models that timm builds as priors: DINO, CLIP's image side, ConvNeXt, ResNet and their like, frozen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffps.backbone.flops import count_flops
from diffps.backbone.headers import StoredTensor, one_line, read_header
from diffps.backbone.identity import tensor_digest
from diffps.backbone.locate import fetch_file
from diffps.backbone.pixels import FromPixels, Normalisation, PixelPass
from diffps.backbone.prior import Conditions, Pass
from diffps.backbone.timm_names import TimmName, fitted, read_name, without_classifier
from diffps.backbone.weights import digest_once, stored_bytes
from diffps.errors import CheckpointError
from diffps.taps import TapSpec, check_taps

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TimmModel(FromPixels):
    """See :class:`~diffps.backbone.prior.Prior`; ``revision`` is of the hub's repository."""

    name: str
    revision: str | None = None

    def __post_init__(self) -> None:
        _ = self._source  # a name that timm does not know is an error now

    @property
    def taps(self) -> Mapping[str, TapSpec]:
        return self._empty[1]

    @property
    def multiple(self) -> int:
        return max(tap.stride for tap in self.taps.values())

    def digests(self) -> Mapping[str, str]:
        return {"model": self._digest}

    def check_tensors(self) -> None:
        import torch

        places = {name: torch.empty(tensor.shape, device="meta") for name, tensor in self._stored.items()}
        fitted(self._empty[0], places, self._files[0])

    def start_recipe(self, dtype: str) -> dict[str, Any]:
        return {"mean": list(self._normalisation["mean"]), "std": list(self._normalisation["std"])}

    def pass_recipe(self, conditions: Conditions) -> dict[str, Any]:
        return {"model": self._digest}

    def tokens(self, conditions: Conditions) -> Mapping[str, Sequence[int]]:
        return {}

    def word_embeddings(self, words: Sequence[str], encoder: int = 1) -> None:
        return None

    def describe(self, conditions: Conditions) -> Iterator[str]:
        grid = {tap.stride for tap in self.taps.values()}
        yield f"checkpoint: {self.name} at {self._files[0]}, {len(self.taps)} taps at strides {sorted(grid)}"
        yield f"  digests: model {self._digest}"
        yield "  no text: train.model.dgrpn and sfan are off, the prompt and its words are not read"

    def flops(self, canvas: tuple[int, int], taps: Sequence[str]) -> Mapping[str, int]:
        import torch

        from diffps.backbone.timm_taps import TimmReader

        reader = TimmReader(self._empty[0], {tap: self.taps[tap] for tap in taps})
        try:
            return {"model": count_flops(lambda: reader.run(torch.empty(1, 3, *canvas, device="meta")))}
        finally:
            reader.close()

    def open_pass(
        self,
        taps: Sequence[str],
        conditions: Conditions,
        device: "torch.device | str",
        dtype: str,
        *,
        compiled: bool = False,
    ) -> Pass:
        from diffps.backbone.frozen import on_device, torch_dtype
        from diffps.backbone.timm_taps import TimmReader

        check_taps(taps, self.taps)
        model = on_device(self.load(torch_dtype(dtype)), device)
        specs = {tap: self.taps[tap] for tap in taps}
        return PixelPass(
            lambda: TimmReader(model, specs), self._normalisation, device, torch_dtype(dtype), compiled=compiled
        )

    def load(self, dtype: "torch.dtype") -> Any:
        """The model in ``dtype`` on the CPU, without its classifier, frozen, in eval mode. Raises CheckpointError."""
        from safetensors.torch import load_file

        model, kept = self._build("cpu"), self._stored  # whose headers have been looked at
        loaded = {name: tensor for file in self._files for name, tensor in load_file(file).items() if name in kept}
        model.load_state_dict(fitted(model, loaded, self._files[0]), strict=False)
        return model.to(dtype).eval().requires_grad_(False)

    @cached_property
    def _source(self) -> TimmName:
        return read_name(self.name)

    @cached_property
    def _empty(self) -> tuple[Any, dict[str, TapSpec]]:
        """The model on the meta device, and its taps."""
        from diffps.backbone.timm_taps import timm_table

        model = self._build("meta").eval()
        return model, timm_table(model, self.name)

    def _build(self, device: str) -> Any:
        """The model without its classifier, whose positions follow the canvas where it has any."""
        import timm
        import torch

        architecture, arguments = self._source.architecture, self._source.arguments
        # A CNN has no positions, and knows no such option.
        for options in ({"dynamic_img_size": True}, {}):
            try:
                with torch.device(device):
                    return timm.create_model(architecture, **{**arguments, **options, "num_classes": 0})
            except Exception as error:  # of arguments that the architecture does not take
                reason = one_line(error)
        raise CheckpointError(f"{self.name}: timm does not build it ({reason})")

    @property
    def _normalisation(self) -> Normalisation:
        config = {**self._empty[0].pretrained_cfg, **self._source.config}
        return {name: tuple(float(value) for value in config[name]) for name in ("mean", "std")}

    @cached_property
    def _files(self) -> tuple[Path, ...]:
        if self._source.files:
            return self._source.files
        config = self._empty[0].pretrained_cfg
        if not config.get("hf_hub_id"):
            raise CheckpointError(f"{self.name}: timm names no weights for it; give a file, {self.name}@FILE")
        name = config.get("hf_hub_filename") or "model.safetensors"
        return (fetch_file(config["hf_hub_id"], name, self.revision),)

    @cached_property
    def _stored(self) -> dict[str, StoredTensor]:
        """Where the tensors lie, but for the classifier's."""
        found = {name: tensor for file in self._files for name, tensor in read_header(file).items()}
        return without_classifier(self._empty[0], found)

    @cached_property
    def _digest(self) -> str:
        who = {"architecture": self._source.architecture.partition(".")[0], "arguments": self._source.arguments}
        return digest_once(str(who), self._files, lambda: tensor_digest(who, stored_bytes(self._stored)))

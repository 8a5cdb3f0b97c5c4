"""CLIP and SigLIP as priors, from folders in transformers' layout: the image side frozen, the text side for word maps.

``clip:FOLDER`` or ``clip:OWNER/NAME`` of the hub: config.json, model.safetensors, the tokenizer's files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffps.backbone.flops import count_flops
from diffps.backbone.headers import StoredTensor, one_line, read_header
from diffps.backbone.identity import tensor_digest
from diffps.backbone.kinds import describe
from diffps.backbone.locate import find_folder
from diffps.backbone.pixels import FromPixels, Normalisation, PixelPass
from diffps.backbone.prior import CLIP, Conditions, Pass
from diffps.backbone.weights import digest_once, find_weights, read_json, stored_bytes
from diffps.errors import CheckpointError, ConfigError, PromptError
from diffps.taps import TapSpec, check_taps

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SIDES = {"vision": ("vision_model.", "visual_projection."), "text": ("text_model.", "text_projection.")}
_NORMALISATIONS: Mapping[str, Normalisation] = {
    "clip": {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)},
    "siglip": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
}
_SIZES = (
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_hidden_layers",
)
_OWN_SIZES = {"vision": ("image_size", "patch_size"), "text": ("max_position_embeddings", "vocab_size")}
_NO_WEIGHT = "embeddings.position_ids"


@dataclass(frozen=True)
class ClipModel(FromPixels):
    """See :class:`~diffps.backbone.prior.Prior`; ``folder`` is in transformers' layout."""

    name: str
    folder: Path
    variant: str | None = None

    def __post_init__(self) -> None:
        if self._kind not in _NORMALISATIONS:
            raise CheckpointError(
                f"{self.name}: a model of type {self._kind!r}; expected CLIP or SigLIP with patches on a grid "
                f"({', '.join(_NORMALISATIONS)})"
            )

    @property
    def taps(self) -> Mapping[str, TapSpec]:
        from diffps.backbone.clip_taps import clip_table

        return clip_table(self._config.vision_config, self._kind == "siglip")

    @property
    def multiple(self) -> int:
        return int(self._config.vision_config.patch_size)

    def digests(self) -> Mapping[str, str]:
        return self._digests

    def check_tensors(self) -> None:
        wanted = {name: tuple(value.shape) for name, value in self._empty.state_dict().items()}
        found = {name: tensor.shape for name, tensor in self._stored.items()}
        if len(wanted.keys() & found.keys()) <= len(wanted) // 2:
            raise CheckpointError(f"{self._files[0]} holds {describe(found)}; expected a {self._kind} model")
        for name in (*wanted, *found):
            if name not in found or name not in wanted:
                raise CheckpointError(f"{self._files[0]}: {name} is {'missing' if name in wanted else 'unknown to it'}")
            if wanted[name] != found[name]:
                raise CheckpointError(f"{self._files[0]}: {name} is {list(found[name])}, expected {list(wanted[name])}")

    def start_recipe(self, dtype: str) -> dict[str, Any]:
        return {name: list(values) for name, values in self._normalisation.items()}

    def pass_recipe(self, conditions: Conditions) -> dict[str, Any]:
        return dict(self._digests)

    def tokens(self, conditions: Conditions) -> Mapping[str, Sequence[int]]:
        return {word: self._tokens(word) for word in conditions.words}

    def word_embeddings(self, words: Sequence[str], encoder: int = 1) -> "Tensor":
        import torch

        if encoder != 1:
            raise ConfigError(f"encode.text_encoder {encoder}: {self.name} has 1")

        rows = []
        for word in words:
            with torch.inference_mode():
                found = self._text.get_text_features(input_ids=torch.tensor([self._tokens(word)]))
            rows.append(getattr(found, "pooler_output", found)[0].float().clone())
        return torch.stack(rows) if rows else torch.zeros(0, int(self._config.text_config.hidden_size))

    def describe(self, conditions: Conditions) -> Iterator[str]:
        yield f"checkpoint: {self.name} at {self.folder}, {self._kind}, {len(self.taps)} taps at stride {self.multiple}"
        yield "  digests: " + ", ".join(f"{side} {digest}" for side, digest in self._digests.items())
        yield f"  words are texts of their own, of tokens {dict(self.tokens(conditions))}"

    def flops(self, canvas: tuple[int, int], taps: Sequence[str]) -> Mapping[str, int]:
        import torch

        from diffps.backbone.clip_taps import ClipReader

        reader = ClipReader(self._empty, {tap: self.taps[tap] for tap in taps}, {})
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
        from torch.nn.functional import normalize

        from diffps.backbone.clip_taps import ClipReader
        from diffps.backbone.frozen import torch_dtype

        check_taps(taps, self.taps)
        specs = {tap: self.taps[tap] for tap in taps}
        vectors = normalize(self.word_embeddings(conditions.words), dim=-1).to(device)
        words = dict(zip(conditions.words, vectors, strict=True))
        model = self.load(torch_dtype(dtype))
        model.text_model = None  # half of the memory, and never used again
        model = model.to(device)
        return PixelPass(
            lambda: ClipReader(model, specs, words), self._normalisation, device, torch_dtype(dtype), compiled=compiled
        )

    def load(self, dtype: "torch.dtype") -> Any:
        """Both sides in ``dtype`` on the CPU, frozen, in eval mode. Raises CheckpointError."""
        from safetensors.torch import load_file
        from transformers.utils import logging

        self.check_tensors()
        logging.disable_progress_bar()
        tensors = {name: tensor for file in self._files for name, tensor in load_file(file).items()}
        tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(_NO_WEIGHT)}
        model = type(self._empty).from_pretrained(None, config=self._config, state_dict=tensors)
        return model.to(dtype).eval().requires_grad_(False)

    @cached_property
    def _raw(self) -> dict[str, Any]:
        return read_json(self.folder / "config.json")

    @property
    def _kind(self) -> str:
        return str(self._raw.get("model_type"))

    @cached_property
    def _config(self) -> Any:
        from transformers import CLIPConfig, SiglipConfig

        kind = CLIPConfig if self._kind == "clip" else SiglipConfig
        return kind.from_dict({key: value for key, value in self._raw.items() if key not in ("dtype", "torch_dtype")})

    @cached_property
    def _empty(self) -> Any:
        """The model on the meta device."""
        import torch
        from transformers import CLIPModel, SiglipModel

        try:
            with torch.device("meta"):
                model: Any = (CLIPModel if self._kind == "clip" else SiglipModel)(self._config)
                return model.eval()
        except Exception as error:  # the library raises whatever its modules do
            raise CheckpointError(f"{self.folder / 'config.json'} describes no model ({one_line(error)})") from error

    @property
    def _normalisation(self) -> Normalisation:
        path = self.folder / "preprocessor_config.json"
        own = read_json(path) if path.is_file() else {}
        return {name: tuple(own.get(f"image_{name}") or _NORMALISATIONS[self._kind][name]) for name in ("mean", "std")}

    @cached_property
    def _files(self) -> tuple[Path, ...]:
        return find_weights(self.folder, "model", self.variant)

    @cached_property
    def _stored(self) -> dict[str, StoredTensor]:
        found = {name: tensor for file in self._files for name, tensor in read_header(file).items()}
        return {name: tensor for name, tensor in found.items() if not name.endswith(_NO_WEIGHT)}

    @cached_property
    def _digests(self) -> dict[str, str]:
        found = {}
        for side, prefixes in SIDES.items():
            config = getattr(self._config, f"{side}_config").to_dict()
            sizes = {key: config[key] for key in (*_SIZES, *_OWN_SIZES[side])}
            tensors = {name: tensor for name, tensor in self._stored.items() if name.startswith(prefixes)}
            who = {"type": self._kind, **sizes}
            found[side] = digest_once(f"{side} {who}", self._files, partial(_side_digest, who, tensors))
        return found

    @cached_property
    def _text(self) -> Any:
        import torch

        model = self.load(torch.float32)
        model.vision_model = None
        return model

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except Exception as error:  # transformers raises whatever its parsers do
            raise CheckpointError(f"{self.name}: its tokenizer does not load ({one_line(error)})") from error

    def _tokens(self, word: str) -> list[int]:
        length = int(self._config.text_config.max_position_embeddings)
        if self._kind == "siglip":  # trained on lower case, padded to its full length
            found = self._tokenizer(word.lower(), padding="max_length", max_length=length, verbose=False)
        else:
            found = self._tokenizer(word, verbose=False)
        ids: list[int] = found["input_ids"]
        if len(ids) > length:
            raise PromptError(f"word {word!r}: {len(ids)} tokens, the text encoder takes {length}; shorten it")
        return ids


def _side_digest(who: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> str:
    return tensor_digest(who, stored_bytes(tensors))


def find_clip(name: str, revision: str | None, variant: str | None) -> ClipModel:
    """The model that ``name`` (clip:FOLDER, clip:OWNER/NAME) calls. Raises CheckpointError with the way out."""
    folder = find_folder(name.removeprefix(CLIP), revision, ("*.json", "*.txt", "*.model", "model*.safetensors"))
    return ClipModel(name, folder, variant)

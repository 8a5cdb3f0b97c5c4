"""Pictures that no index knows, through VAE, UNet and head: who is in them, and how they look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache import ArraySpec, FeatureStore, explain_difference
from diffps.backbone.latents import NoiseKey
from diffps.backbone.locate import at_hand
from diffps.errors import CheckpointError, ConfigError
from diffps.features import Feature, expand_once
from diffps.images import to_canvas_tensor
from diffps.model import PersonSearcher
from diffps.records import Detections
from stages.config_data import EncodeConfig, ExtractConfig
from stages.devices import choose_device
from stages.features.backbone import PassRunner, unet_batch, vae_batch
from stages.features.batches import chunks, padded
from stages.features.opening import open_store
from stages.features.plan import PassPlan
from stages.features.reading import Reading
from stages.features.recipes import shown_recipe
from stages.features.stored import joined_feature, torch_basis
from stages.finding.photos import Photo
from stages.head.saved import reading_of, training_of
from stages.head.travel import check_complete, looks_like_hub_id
from stages.job import Runtime
from stages.search.inference import detect_people, embed_boxes
from stages.typed import build

BATCH = 4  # pictures the head looks at together


class OnCanvas(NamedTuple):
    """A picture ready for the VAE: its digest, (height, width) as displayed, and (3, H, W) on the canvas."""

    digest: str
    size: tuple[int, int]
    pixels: Tensor


@dataclass(frozen=True, slots=True)
class SearchHead:
    """A head and what it says of the backbone that it reads."""

    folder: Path
    searcher: PersonSearcher
    reading: Reading
    encode: EncodeConfig
    extract: ExtractConfig
    recipe: Mapping[str, Any]
    dataset: str

    @classmethod
    def open(cls, folder: Path, checkpoint: str | None = None) -> "SearchHead":
        """The head in a folder; ``checkpoint``, a folder or a hub id, takes the place of the one it names.

        Raises CheckpointError where it does not say what it reads.
        """
        check_complete(folder)
        searcher, said = PersonSearcher.from_pretrained(folder), training_of(folder)
        where = f"{folder / 'config.json'}: training.backbone"
        encode = build(EncodeConfig, said["backbone"]["encode"], where)
        extract = build(ExtractConfig, said["backbone"]["extract"], where)
        if checkpoint is not None:
            encode = replace(encode, checkpoint=checkpoint, hub=None, revision=None)
        reading = reading_of(folder, searcher, extract)
        return cls(folder, searcher, reading, encode, extract, said["recipe"], said.get("dataset", ""))

    @property
    def of_drawings(self) -> bool:
        """Trained on drawn scenes: photographs are nothing to it."""
        return self.encode.checkpoint.startswith("builtin:") or self.dataset == "streets"


def asked_pass(head: SearchHead, store: FeatureStore) -> tuple[PassPlan, dict[str, ArraySpec]]:
    """The pass that a head reads, and of its arrays over searched pictures those that are read, by the head's names.

    Raises CheckpointError where the checkpoint is not at hand, and where it is another than the head was trained on.
    """
    _require_at_hand(head)
    plan = PassPlan(head.encode, head.reading.asked_of(head.extract), store)
    if plan.unfitted([head.reading.timestep]):
        raise ConfigError(
            f"head {head.folder}: reads {head.reading.encoding}, whose basis lies in the store it was trained from; "
            "search where that store is (runtime.store), or train a head on int8"
        )
    found = plan.specs("test", "identity", head.reading.timestep)
    specs = {name: found[name] for name in head.reading.names}
    _require_same(head, shown_recipe(specs.values()))
    return plan, specs


class Embedder:
    """The frozen backbone and a head on their device. One call at a time.

    Raises CheckpointError where the checkpoint is not at hand, and where it is another than the head was trained on.
    """

    def __init__(self, head: SearchHead, runtime: Runtime) -> None:
        encode = head.encode
        plan, self._specs = asked_pass(head, open_store(runtime.store))
        self._device = choose_device(runtime)
        self.searcher = head.searcher.to(self._device).eval()
        self._timestep = head.reading.timestep
        self._encoder = plan.prior.open_encoder(self._device, encode.dtype)
        self._vae_batch = runtime.vae_batch or vae_batch(encode.frame, self._device.type)
        self._batch = unet_batch(runtime, self._device.type)
        self._runner = PassRunner(plan, self._device, runtime.compile)
        self._bases = {name: torch_basis(spec) for name, spec in self._specs.items()}

    def close(self) -> None:
        """Take the hooks off the UNet."""
        self._runner.close()

    def place(self, photo: Photo) -> OnCanvas:
        """A decoded picture on the head's canvas."""
        return OnCanvas(photo.digest, photo.size, to_canvas_tensor(photo.pixels, self.searcher.canvas))

    @torch.no_grad()
    def detect(self, pictures: Sequence[OnCanvas], score_threshold: float) -> list[Detections]:
        """Who is in each, boxes in the picture's own frame."""
        sizes = [picture.size for picture in pictures]
        found: list[Detections] = []
        for at in range(0, len(pictures), BATCH):
            features = self._features(pictures[at : at + BATCH])
            found += detect_people(self.searcher, features, sizes[at : at + BATCH], score_threshold)
        return found

    @torch.no_grad()
    def embed(self, picture: OnCanvas, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings (n, D) of boxes (n, 4) in the picture's own frame."""
        return embed_boxes(self.searcher, self._features([picture]), [picture.size], [boxes])[0]

    def _features(self, pictures: Sequence[OnCanvas]) -> dict[str, Feature]:
        """As the live source computes them of indexed scenes: through the store's encoding, in batches of one size."""
        moments: list[NDArray[np.float32]] = []
        for chunk in chunks([picture.pixels for picture in pictures], self._vae_batch):
            pixels = padded(chunk, self._vae_batch)
            assert pixels is not None
            moments += list(self._encoder.moments(pixels).cpu().numpy()[: len(chunk)])
        keys = [NoiseKey(picture.digest, "identity") for picture in pictures]
        rows = []
        for images in chunks(zip(keys, moments, strict=True), self._batch):
            for features in self._runner.features(images, self._timestep, self._batch):
                rows.append({name: spec.encoding.encode(features[name][None]) for name, spec in self._specs.items()})
        return {
            name: expand_once(joined_feature([row[name] for row in rows], basis), None, self._device)
            for name, basis in self._bases.items()
        }


def _require_at_hand(head: SearchHead) -> None:
    name, revision, hub = head.encode.checkpoint, head.encode.revision, head.encode.hub
    for wanted, asked, instead in ((name, revision, hub), (head.extract.unet, None, None)):
        if wanted is not None and not at_hand(wanted, asked, instead):
            at = f" --revision {asked}" if asked else ""
            way = f"`hf download {wanted}{at}`" if looks_like_hub_id(wanted) else "put it there"
            raise CheckpointError(
                f"head {head.folder}: reads features of {wanted}, which is not on this machine: {way} (Stable "
                "Diffusion 2.1 takes about 5 GB in float32), or name where it lies with --checkpoint"
            )


def _require_same(head: SearchHead, shown: Mapping[str, Any]) -> None:
    differing = explain_difference(dict(head.recipe), dict(shown))
    if differing:
        raise CheckpointError(
            f"head {head.folder}: was trained on features of another backbone than {head.encode.checkpoint} "
            f"({'; '.join(differing)}); name the right one with --checkpoint"
        )

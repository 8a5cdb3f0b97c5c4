"""The whole person searcher: features of a frozen diffusion model in, losses or found persons out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float32
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffps.errors import CheckpointError, ConfigError, one_line
from diffps.features import Feature, FeatureShape
from diffps.geometry import Canvas
from diffps.heads.agreement import CONFIG_FILE, LEVELS, WEIGHTS_FILE, check_shapes, check_taps, config_from_json
from diffps.heads.backbone_head import BackboneHead, build_head, load_head_weights
from diffps.heads.config import Initialisation, ModelConfig, TapsConfig
from diffps.heads.detection import BoxHead, ProposalNetwork
from diffps.heads.dgrpn import DGRPN, normalise
from diffps.heads.embedding import PartEncoder
from diffps.heads.initialisation import initialise
from diffps.heads.lpm import Aggregation
from diffps.heads.msfrn import MSFRN
from diffps.heads.oim import OIM
from diffps.heads.reid import ReIDHead
from diffps.heads.sampling import Target
from diffps.heads.sfan import SFAN
from diffps.records import Detections

__all__ = ["CONFIG_FILE", "LOSSES", "WEIGHTS_FILE", "PersonSearcher", "Target", "apply_init", "build_searcher"]

LOSSES = ("rpn_cls", "rpn_reg", "prop_cls", "prop_reg", "reid")
_MOST_BLOCKS = 100  # of a head; the paper has 3


class Candidates(NamedTuple):
    """Boxes of one image after NMS with their scores, strongest first, however low; and the proposals before that."""

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    proposals: Float[Tensor, "p 4"]


class PersonSearcher(nn.Module):
    """DiffPS' trainable part; :func:`build_searcher` assembles one. Boxes are in the canvas frame everywhere.

    ``aggregation`` None: detection shares the re-ID branch's map. ``dgrpn`` None: F_det = F. ``init``: the rule its
    first weights were made by, None where that is not known.
    """

    def __init__(
        self,
        *,
        config: ModelConfig,
        taps: TapsConfig,
        shapes: Mapping[str, FeatureShape],
        canvas: Canvas,
        aggregation: nn.Module | None,
        dgrpn: DGRPN | None,
        proposals: ProposalNetwork,
        box_head: BoxHead,
        msfrn: MSFRN,
        reid_head: ReIDHead,
        oim: OIM,
    ) -> None:
        super().__init__()
        self.config, self.taps, self.canvas = config, taps, canvas
        self.shapes = {name: shapes[name] for name in taps.names}
        self.init: Initialisation | None = None
        self.aggregation = aggregation
        self.dgrpn = dgrpn
        self.proposals = proposals
        self.box_head = box_head
        self.msfrn = msfrn
        self.reid_head = reid_head
        self.oim = oim

    def forward(self, features: Mapping[str, Feature], targets: Sequence[Target]) -> dict[str, Float32[Tensor, ""]]:
        """The five losses of a batch, unweighted: rpn_cls, rpn_reg, prop_cls, prop_reg, reid."""
        refined = self.msfrn(features)
        detection = self.detection_map(features, refined)
        proposals, rpn_losses = self.proposals(detection, targets)
        decoded, box_losses = self.box_head.learn(detection, proposals, targets)
        candidates = [torch.cat(pair) for pair in zip(decoded, proposals, strict=True)]
        boxes, labels = self.reid_head.sample(candidates, targets)
        # Fewer than two RoIs have no batch statistics; the sum over nothing is a zero with zero gradient.
        reid = self.oim(self.reid_head(refined, boxes), labels) if len(labels) > 1 else refined[:0].sum().float()
        return {**rpn_losses, **box_losses, "reid": reid}

    def update_memory(self) -> None:
        """Let the last forward's persons into the OIM table and queue; call after its backward."""
        self.oim.update()

    def detection_map(
        self, features: Mapping[str, Feature], refined: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C H W"]:
        """F_det: what region proposals and boxes are read from."""
        x = refined if self.aggregation is None else self.aggregation(features[self.taps.detection])
        return x if self.dgrpn is None else self.dgrpn(x, self.guidance(features))

    def guidance(self, features: Mapping[str, Feature]) -> Float[Tensor, "B h w"]:
        """The raw cross-attention map of the word."""
        assert self.taps.guidance is not None, "DGRPN is on"
        return features[self.taps.guidance].dense()[:, 0]

    @torch.no_grad()
    def detect(self, features: Mapping[str, Feature], *, score_threshold: float | None = None) -> list[Detections]:
        """The persons of each image with their embeddings. ``score_threshold`` None: the configured one."""
        assert not self.training, "detect() needs eval()"
        refined = self.msfrn(features)
        detection = self.detection_map(features, refined)
        proposals, _ = self.proposals(detection)
        least = self.config.box.score_threshold if score_threshold is None else score_threshold
        found = self.box_head.detect(detection, proposals, least)
        embeddings = self._embed(refined, [persons.boxes for persons in found])
        return [
            Detections(
                persons.boxes.float().cpu().numpy(), persons.scores.float().cpu().numpy(), embedding.cpu().numpy()
            )
            for persons, embedding in zip(found, embeddings, strict=True)
        ]

    @torch.no_grad()
    def candidates(self, features: Mapping[str, Feature]) -> list[Candidates]:
        """What each image's detections were chosen from. Those of :meth:`detect` are the ones at its threshold or
        above; nothing is embedded."""
        assert not self.training, "candidates() needs eval()"
        detection = self.detection_map(features, self.msfrn(features))
        proposals, _ = self.proposals(detection)
        found = self.box_head.detect(detection, proposals, 0.0)
        return [Candidates(*persons, boxes) for persons, boxes in zip(found, proposals, strict=True)]

    @torch.no_grad()
    def embed(
        self, features: Mapping[str, Feature], boxes: Sequence[Float[Tensor, "_ 4"]]
    ) -> list[Float32[Tensor, "_ D"]]:
        """Embeddings of each image's given boxes: queries, or ground truth as detections."""
        assert not self.training, "embed() needs eval()"
        return self._embed(self.msfrn(features), boxes)

    def _embed(
        self, refined: Float[Tensor, "B C h w"], boxes: Sequence[Float[Tensor, "_ 4"]]
    ) -> list[Float32[Tensor, "_ D"]]:
        counts = [len(image_boxes) for image_boxes in boxes]
        if sum(counts) == 0:
            return [torch.zeros(0, self.config.embedding.size, device=refined.device) for _ in boxes]
        return list(self.reid_head(refined, boxes).split(counts))

    @torch.no_grad()
    def intermediates(self, features: Mapping[str, Feature]) -> dict[str, Tensor]:
        """What pictures of the inside show, in the maps' own grids; a part that is off is left out.

        ``detection`` and ``refined`` (B, C, h, w), ``before`` (F_refined without the FRMs), ``semantic`` (B, h, w) the
        summed map of Eq. 6 over the whole of F_refined, ``guidance`` and ``gaussian`` (B, h, w) in [0, 1], ``peaks``
        (B, K, 2) their x and y, -1 where there is none.
        """
        refined = self.msfrn(features)
        maps = {"refined": refined, "detection": self.detection_map(features, refined)}
        if self.config.msfrn is not None:
            maps["before"] = self.msfrn(features, refine=False)
        if isinstance(self.reid_head.sfan, SFAN):
            maps["semantic"] = self.reid_head.sfan.semantic_map(refined)
        if self.dgrpn is not None:
            guidance = self.guidance(features)
            _, peaks = self.dgrpn.peaks(guidance)
            places = torch.stack([peaks.column, peaks.row], dim=-1)
            maps["guidance"] = normalise(guidance)
            maps["gaussian"] = self.dgrpn.gaussians(guidance)
            maps["peaks"] = places.masked_fill(~peaks.real[..., None], -1)
        return maps

    def save_pretrained(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write model.safetensors and config.json into ``folder``; ``extra`` (JSON values) goes under key
        ``training``."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / WEIGHTS_FILE)
        sfan = self.reid_head.sfan
        config = {
            "model": asdict(self.config),
            "taps": asdict(self.taps),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "canvas": [self.canvas.height, self.canvas.width],
            "identities": len(self.oim.table),
            "words": list(sfan.words.shape) if isinstance(sfan, SFAN) else None,
            "init": self.init,
            "training": dict(extra or {}),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "PersonSearcher":
        """The head :meth:`save_pretrained` wrote, on the CPU, in eval mode. Raises CheckpointError for anything
        else."""
        folder = Path(folder)
        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            tensors = load_file(folder / WEIGHTS_FILE)
            with torch.device("meta"):  # whatever a stranger's config.json claims, nothing is allocated for it
                check_shapes(_build_described(config), tensors)
            searcher = _build_described(config)
            searcher.load_state_dict(tensors)
            searcher.init = config.get("init")
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder}: {error.filename or error} is missing; expected a trained head, as `diffps train` writes it"
            ) from error
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}: not a trained head of this version: {one_line(str(error))}") from error
        except (RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"{folder}: not a trained head of this version: {reason}") from error
        return searcher.eval()


def _build_described(config: Mapping[str, Any]) -> PersonSearcher:
    """The searcher that the content of config.json describes."""
    model = config_from_json(ModelConfig, config["model"])
    if max(model.head_blocks, model.embedding.branches) > _MOST_BLOCKS:
        raise ConfigError(f"model: more than {_MOST_BLOCKS} blocks or branches")
    return build_searcher(
        model,
        config_from_json(TapsConfig, config["taps"]),
        {name: FeatureShape(*shape) for name, shape in config["shapes"].items()},
        Canvas(*config["canvas"]),
        torch.zeros(config["words"]) if config["words"] else None,
        config["identities"],
    )


def build_searcher(
    config: ModelConfig,
    taps: TapsConfig,
    shapes: Mapping[str, FeatureShape],
    canvas: Canvas,
    words: Float[Tensor, "words text_width"] | None,
    identities: int,
) -> PersonSearcher:
    """A searcher with torch's default random weights; :func:`apply_init` gives it the method's.

    ``shapes`` gives grid and channels of every tap read; ``words`` are the text embeddings SFAN compares with,
    None where it is off; ``identities`` is the number of labelled training identities. Raises ConfigError where they
    do not fit.
    """
    check_taps(config, taps, shapes)
    if config.sfan is not None and words is None:
        raise ConfigError("model.sfan: needs the words' text embeddings; run `diffps encode`, or set model.sfan: null")
    size = (canvas.height, canvas.width)
    width, out = config.channels, config.head_channels

    def head() -> BackboneHead:
        return build_head(config.head, width, out, config.head_blocks)

    widths = {name: shapes[level[0]].channels for name in LEVELS if (level := getattr(taps, name))}
    searcher = PersonSearcher(
        config=config,
        taps=taps,
        shapes=shapes,
        canvas=canvas,
        aggregation=None if config.shared_features else Aggregation(shapes[taps.detection].channels, width),
        dgrpn=DGRPN(config.dgrpn) if config.dgrpn else None,
        proposals=ProposalNetwork(config.rpn, width, size),
        box_head=BoxHead(config.box, head(), out, size),
        msfrn=MSFRN(taps, widths, width, config.msfrn),
        reid_head=ReIDHead(
            config.reid,
            SFAN(config.sfan, words, width) if config.sfan and words is not None else None,
            head(),
            PartEncoder((width, out), config.embedding),
            size,
        ),
        oim=OIM(config.oim, identities, config.embedding.size),
    )
    return searcher.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def apply_init(searcher: PersonSearcher, rule: Initialisation) -> None:
    """Give a searcher just built its first weights by ``rule``, drawn from torch's global generator.

    :func:`diffps.heads.initialisation.initialise` says what each rule does. The backbone heads get
    ``config.head_weights``; the RPN keeps torchvision's own, N(0, 0.01). Raises CheckpointError where those weights
    cannot be had.
    """
    box_head, reid_head = searcher.box_head, searcher.reid_head
    predictor = nn.ModuleList([box_head.classifier, box_head.regressor])
    others = [part for part in (searcher.aggregation, searcher.msfrn, reid_head.sfan) if part is not None]
    initialise(rule, reid_head.encoder, predictor, others)
    for body in (box_head.body, reid_head.body):
        assert isinstance(body, BackboneHead)
        load_head_weights(body, searcher.config)
    searcher.init = rule

"""The last stage of an image classifier, applied to RoIs: layer4 of a ResNet-50 or the last stage of a ConvNeXt."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import ConvNeXt_Base_Weights, ResNet50_Weights
from torchvision.models.convnext import CNBlock, LayerNorm2d
from torchvision.models.resnet import Bottleneck

from diffps.errors import CheckpointError
from diffps.heads.config import Head, ModelConfig

# Where torchvision's classifiers keep the stage: their key prefix -> ours.
_PREFIXES: dict[Head, dict[str, str]] = {
    "resnet50": {"layer4.": ""},
    "convnext": {"features.6.": "0.", "features.7.": "1."},
}


class BackboneHead(nn.Sequential):
    """(R, in, H, W) -> (R, out, H / 2, W / 2), odd sides rounded up by ResNet and down by ConvNeXt, under torchvision's
    parameter names."""


def build_head(kind: Head, in_channels: int, out_channels: int, blocks: int) -> BackboneHead:
    """A randomly initialised head; ResNet's bottleneck is a quarter of ``out_channels`` wide."""
    if kind == "convnext":
        shrink = nn.Sequential(
            LayerNorm2d(in_channels, eps=1e-6), nn.Conv2d(in_channels, out_channels, kernel_size=2, stride=2)
        )
        stage = nn.Sequential(*(CNBlock(out_channels, 1e-6, 0.0) for _ in range(blocks)))
        return BackboneHead(shrink, stage)
    planes = out_channels // 4
    shortcut = nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False), nn.BatchNorm2d(out_channels)
    )
    first = Bottleneck(in_channels, planes, stride=2, downsample=shortcut)
    head = BackboneHead(first, *(Bottleneck(out_channels, planes) for _ in range(blocks - 1)))
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return head


def load_head_weights(head: BackboneHead, config: ModelConfig) -> bool:
    """Put ``config.head_weights`` into ``head``; false where they are ``random``: then it stays as it is.

    Raises CheckpointError as :func:`read_head_weights` does, and for weights of another shape.
    """
    state = read_head_weights(config)
    if state is not None:
        _fill(head, config, state)
    return state is not None


def read_head_weights(config: ModelConfig) -> Mapping[str, Tensor] | None:
    """The weights that ``config.head_weights`` names, under torchvision's names; None for ``random``.

    ImageNet's are fetched into torch.hub's folder, once. Raises CheckpointError where they do not fit the model or
    cannot be had, and for a file that is missing or holds other things than weights.
    """
    if config.head_weights == "random":
        return None
    if config.head_weights != "imagenet":
        return _read(Path(config.head_weights))
    asked, known = (config.channels, config.head_channels, config.head_blocks), _imagenet_widths(config.head)
    if asked != known:
        raise CheckpointError(
            f"model.head_weights imagenet: ImageNet's {config.head} has channels, head_channels, head_blocks {known}, "
            f"this model {asked}; set model.head_weights: random, or those"
        )
    classifier = ResNet50_Weights.IMAGENET1K_V1 if config.head == "resnet50" else ConvNeXt_Base_Weights.IMAGENET1K_V1
    path = Path(torch.hub.get_dir()) / "checkpoints" / classifier.url.rpartition("/")[2]
    if path.is_file():
        return _read(path)
    try:
        state: Mapping[str, Tensor] = classifier.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, or a broken download
        raise CheckpointError(
            f"model.head_weights imagenet: {path} is missing and cannot be fetched ({error}): put {classifier.url} "
            "there, or name its place in model.head_weights"
        ) from error
    return state


def _imagenet_widths(kind: Head) -> tuple[int, int, int]:
    return (1024, 2048, 3) if kind == "resnet50" else (512, 1024, 3)


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"model.head_weights {path}: no such file; expected torchvision weights, or `random`")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"model.head_weights {path}: not a file of weights ({error})") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise CheckpointError(
            f"model.head_weights {path}: holds a {type(state).__name__} of other things than tensors by name; "
            "expected torchvision weights"
        )
    return state


def _fill(head: BackboneHead, config: ModelConfig, state: Mapping[str, Tensor]) -> None:
    picked = {
        ours + name.removeprefix(theirs): value
        for theirs, ours in _PREFIXES[config.head].items()
        for name, value in state.items()
        if name.startswith(theirs)
    }
    try:
        head.load_state_dict(picked)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"model.head_weights {config.head_weights}: does not fit {config.head} with "
            f"{config.channels} -> {config.head_channels} channels: {reason}"
        ) from error

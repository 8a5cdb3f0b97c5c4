"""Heads carry torchvision's stages under torchvision's names."""

import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import convnext_base, resnet50

from diffps.errors import CheckpointError
from diffps.heads.backbone_head import build_head, load_head_weights, read_head_weights
from diffps.heads.config import ModelConfig
from diffps.heads.config_rois import ReIDConfig


def filled(module: nn.Module) -> nn.Module:
    """A module from the meta device with random numbers; only the stages compared are worth their memory."""
    torch.manual_seed(0)
    module = module.to_empty(device="cpu").eval()
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.01, 0.1)
    return module


def test_resnet_head_is_torchvisions_layer4(tmp_path: Path) -> None:
    with torch.device("meta"):
        whole = resnet50(weights=None)
    layer4 = filled(whole.layer4)
    torch.save({f"layer4.{name}": value for name, value in layer4.state_dict().items()}, tmp_path / "resnet50.pth")
    head = build_head("resnet50", 1024, 2048, 3).eval()
    assert load_head_weights(head, ModelConfig(head_weights=str(tmp_path / "resnet50.pth")))
    x = torch.randn(1, 1024, 6, 4)
    with torch.no_grad():
        assert torch.equal(head(x), layer4(x))


def test_convnext_head_is_torchvisions_last_stage(tmp_path: Path) -> None:
    with torch.device("meta"):
        whole = convnext_base(weights=None)
    stages = {number: filled(whole.features[number]) for number in (6, 7)}
    state = {f"features.{n}.{name}": value for n, stage in stages.items() for name, value in stage.state_dict().items()}
    save_file(state, tmp_path / "convnext.safetensors")
    config = ModelConfig(
        channels=512, head="convnext", head_channels=1024, head_weights=str(tmp_path / "convnext.safetensors")
    )
    head = build_head("convnext", 512, 1024, 3).eval()
    assert load_head_weights(head, config)
    x = torch.randn(1, 512, 6, 4)
    with torch.no_grad():
        assert torch.equal(head(x), stages[7](stages[6](x)))


@pytest.mark.parametrize("kind", ["resnet50", "convnext"])
def test_narrow_heads_halve_the_grid(kind: str) -> None:
    assert build_head(kind, 16, 32, 2)(torch.randn(2, 16, 8, 6)).shape == (2, 32, 4, 3)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    """torch.hub's folder, empty."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


@pytest.mark.parametrize(
    ("config", "file"),
    [
        (ModelConfig(), "resnet50-0676ba61.pth"),
        (ModelConfig(channels=512, head="convnext", head_channels=1024), "convnext_base-6075fbad.pth"),
    ],
)
def test_imagenet_that_cannot_be_had_is_an_error_that_names_the_file(
    config: ModelConfig, file: str, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    with pytest.raises(CheckpointError, match=rf"{file} is missing .*\(no network\): put https?://.*{file} there"):
        read_head_weights(config)


def test_imagenet_is_read_where_it_was_put_by_hand(hub: Path) -> None:
    head, other = (build_head("resnet50", 1024, 2048, 3) for _ in range(2))
    state = {f"layer4.{name}": value for name, value in other.state_dict().items()}
    torch.save(state, hub / "resnet50-0676ba61.pth")
    assert load_head_weights(head, ModelConfig())
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in head.state_dict().items())
    (hub / "resnet50-0676ba61.pth").write_bytes(b"half a download")
    with pytest.raises(CheckpointError, match=r"resnet50-0676ba61.pth: not a file of weights"):
        load_head_weights(head, ModelConfig())


def test_imagenet_for_other_widths_is_an_error() -> None:
    narrow = ModelConfig(channels=16, head_channels=32, reid=ReIDConfig())
    with pytest.raises(CheckpointError, match=r"\(1024, 2048, 3\), this model \(16, 32, 3\); set .*random"):
        load_head_weights(build_head("resnet50", 16, 32, 3), narrow)


def test_random_leaves_a_head_alone(caplog: pytest.LogCaptureFixture) -> None:
    head = build_head("resnet50", 16, 32, 1)
    before = head[0].conv1.weight.clone()
    assert not load_head_weights(head, ModelConfig(channels=16, head_channels=32, head_weights="random"))
    assert torch.equal(head[0].conv1.weight, before)
    assert not caplog.text


def test_wrong_weight_files_are_refused(tmp_path: Path) -> None:
    head = build_head("resnet50", 16, 32, 1)
    with pytest.raises(CheckpointError, match="no such file"):
        load_head_weights(head, ModelConfig(head_weights=str(tmp_path / "nothing.pth")))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CheckpointError, match="not a file of weights"):
        load_head_weights(head, ModelConfig(head_weights=str(tmp_path / "text.pth")))
    torch.save({"layer4.0.conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_head_weights(head, ModelConfig(head_weights=str(tmp_path / "other.pth")))


@pytest.mark.parametrize("content", [[torch.zeros(3)], {1: torch.zeros(3)}, {"layer4.0.conv1.weight": 3}])
def test_a_file_of_other_things_is_refused_by_name(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    config = ModelConfig(channels=16, head_channels=32, head_blocks=1, head_weights=str(tmp_path / "other.pth"))
    with pytest.raises(CheckpointError, match=r"model\.head_weights .*other\.pth"):
        load_head_weights(build_head("resnet50", 16, 32, 1), config)


def test_a_random_convnext_begins_near_the_identity_and_drops_nothing() -> None:
    """torchvision's scale of a layer's first output, 1e-6, and no share of blocks left out, in training either."""
    torch.manual_seed(0)
    head, x = build_head("convnext", 8, 12, 2), torch.randn(3, 8, 6, 4)
    assert [block.layer_scale.unique().item() for block in head[1]] == pytest.approx([1e-6] * 2)
    assert torch.equal(head.train()(x), head.eval()(x))
    assert head(torch.full((1, 8, 2, 2), 0.0)).isfinite().all()
    torch.testing.assert_close(head(x), head[0](x), rtol=0, atol=1e-4)


def test_a_random_resnet_is_kaimings_by_what_goes_out() -> None:
    torch.manual_seed(0)
    head = build_head("resnet50", 64, 128, 2)
    assert [(block.conv1.in_channels, block.conv2.out_channels) for block in head] == [(64, 32), (128, 32)]
    for conv in (head[0].conv2, head[1].conv3):
        fan = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.05)
    assert head[0].downsample[0].bias is None


@pytest.mark.parametrize(
    ("kind", "blocks", "told"),
    [
        ("resnet50", 2, "resnet50 has channels, head_channels, head_blocks (1024, 2048, 3), this model (16, 32, 2)"),
        ("convnext", 3, "convnext has channels, head_channels, head_blocks (512, 1024, 3), this model (16, 32, 3)"),
    ],
)
def test_which_widths_imagenet_has_is_told(kind: str, blocks: int, told: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_head_weights(ModelConfig(channels=16, head=kind, head_channels=32, head_blocks=blocks))
    assert str(caught.value) == (
        f"model.head_weights imagenet: ImageNet's {told}; set model.head_weights: random, or those"
    )


def test_what_does_not_fit_is_told_with_its_widths(tmp_path: Path) -> None:
    torch.save({"layer4.0.conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    config = ModelConfig(channels=16, head_channels=32, head_blocks=1, head_weights=str(tmp_path / "other.pth"))
    with pytest.raises(CheckpointError, match=r"other\.pth: does not fit resnet50 with 16 -> 32 channels: size mism"):
        load_head_weights(build_head("resnet50", 16, 32, 1), config)
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"list\.pth: holds a list of other things than tensors by name"):
        read_head_weights(replace(config, head_weights=str(tmp_path / "list.pth")))

"""Models of timm: every tap against a forward written out, names, files and folders, and what is refused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffps.backbone.families import load_prior
from diffps.backbone.latents import NoiseKey
from diffps.backbone.prior import Conditions, check_pass
from diffps.backbone.published import check_ids
from diffps.backbone.timm_models import TimmModel
from diffps.backbone.timm_taps import TimmReader, timm_table
from diffps.errors import CheckpointError, ConfigError, UnknownTapError
from diffps.taps import TapSpec, tap_kind
from tests.backbone import timm_reference

SIZE = (96, 160)
SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3}
# (architecture, what is smaller in it, its forward): plain, with registers and layer scale, CLIP's, SigLIP's, with
# rotary positions and gates (EVA-02), DINOv3, an attention with norms; three kinds of CNN.
MODELS: dict[str, tuple[str, dict[str, Any], Callable[[Any, Tensor], dict[str, Tensor]]]] = {
    "vit": ("test_vit", {}, timm_reference.vit),
    "dinov2": ("vit_small_patch14_reg4_dinov2", {**SMALL, "img_size": 56, "patch_size": 16}, timm_reference.vit),
    "clip": ("vit_base_patch16_clip_224", {**SMALL, "img_size": 64}, timm_reference.vit),
    "siglip": ("vit_base_patch16_siglip_224", {**SMALL, "img_size": 64}, timm_reference.vit),
    "eva": ("eva_giant_patch14_224", {**SMALL, "img_size": 64, "patch_size": 16, "mlp_ratio": 2}, timm_reference.vit),
    "eva02": ("eva02_base_patch14_224", {**SMALL, "img_size": 64, "patch_size": 16}, timm_reference.vit),
    "dinov3": ("vit_small_patch16_dinov3", {**SMALL, "img_size": 64}, timm_reference.vit),
    "resnet": ("resnet26", {"layers": [1, 1, 2, 1]}, timm_reference.resnet),
    "convnext": ("test_convnext", {}, timm_reference.convnext),
    "efficientnet": ("tf_efficientnet_lite0", {}, timm_reference.efficientnet),
}
KEYS = [NoiseKey("a", "identity"), NoiseKey("b", "identity")]


@pytest.fixture(scope="module", params=MODELS)
def prior(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TimmModel:
    """A folder as the hub's repositories are, with random weights."""
    architecture, arguments, _ = MODELS[request.param]
    return load_prior(f"timm:{write_folder(tmp_path_factory.mktemp(request.param), architecture, arguments)}")


def write_folder(folder: Path, architecture: str, arguments: dict[str, Any]) -> Path:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(architecture, **arguments)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and "running_var" not in name:
            value.add_(0.05 * torch.randn(value.shape))  # biases, scales and tokens are not left at their beginnings
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    own = {"mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.25]}
    config = {"architecture": architecture, "model_args": arguments, "pretrained_cfg": own}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def pixels() -> Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def normalised() -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in ([0.4, 0.5, 0.6], [0.3, 0.2, 0.25]))
    return ((pixels() + 1) / 2 - mean) / std


def read(prior: TimmModel, taps: list[str], **options: Any) -> dict[str, Tensor]:
    starts = prior.open_encoder("cpu", "float32").moments(pixels())
    with prior.open_pass(taps, Conditions(), "cpu", "float32", **options) as opened:
        return opened.features(starts, 0, KEYS)


def test_every_tap_equals_a_forward_written_out(prior: TimmModel, request: pytest.FixtureRequest) -> None:
    reference = MODELS[request.node.callspec.params["prior"]][2]
    model, exact = prior.load(torch.float64), normalised().double()
    expected = reference(model, exact)
    found = TimmReader(model, prior.taps).run(exact)
    single = read(prior, list(prior.taps))
    assert set(single) == set(found) == set(expected) == set(prior.taps)
    for name, value in expected.items():
        tap = prior.taps[name]
        assert tap_kind(name) == tap.kind == "grid"
        assert found[name].shape == value.shape == (2, SIZE[0] // tap.stride, SIZE[1] // tap.stride, tap.channels)
        # timm resamples positions in float32.
        assert float((found[name] - value).abs().max() / value.abs().max()) < 2e-7, name
        assert float((single[name] - value).abs().max() / value.abs().max()) < 2e-5, name
    check_ids(prior.taps)


def test_stopping_early_changes_no_bit_and_hooks_change_no_output(prior: TimmModel) -> None:
    model = prior.load(torch.float32)
    plain = model.forward_features(normalised())
    reader = TimmReader(model, prior.taps)
    whole = reader.run(normalised(), stop=False)
    assert torch.equal(model.forward_features(normalised()), plain)
    reader.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for name in prior.taps:
        reader = TimmReader(model, {name: prior.taps[name]})
        assert torch.equal(reader.run(normalised())[name], whole[name]), name
        reader.close()


def test_the_table_and_the_operations_need_no_weights(prior: TimmModel) -> None:
    last = list(prior.taps)[-1]
    first = next(iter(prior.taps))
    assert 0 < prior.flops(SIZE, [first])["model"] < prior.flops(SIZE, [last])["model"]
    assert prior.latent_channels is None
    assert prior.last_timestep == 0
    assert prior.word_embeddings(["head"]) is None


def test_half_precision_is_close(prior: TimmModel) -> None:
    last = list(prior.taps)[-1]
    starts = prior.open_encoder("cpu", "bfloat16").moments(pixels())
    with prior.open_pass([last], Conditions(), "cpu", "bfloat16") as opened:
        half = opened.features(starts, 0, KEYS)[last].float()
    whole = read(prior, [last])[last]
    assert float((half - whole).norm() / whole.norm()) < 0.3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled_is_the_same_within_rounding(prior: TimmModel) -> None:
    taps = list(prior.taps)[-3:]
    for name, value in read(prior, taps, compiled=True).items():
        torch.testing.assert_close(value, read(prior, taps)[name], rtol=1e-3, atol=1e-4)


def test_a_name_a_file_and_a_folder_are_the_same_model(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "test_vit", {})
    by_folder, by_file = (load_prior(f"timm:{where}") for where in (folder, f"test_vit@{folder / 'model.safetensors'}"))
    assert by_folder.digests() == by_file.digests()
    assert by_folder.start_recipe("float32") != by_file.start_recipe("float32")  # another normalisation
    by_folder.check_tensors()
    weights = load_file(folder / "model.safetensors")
    del weights["head.weight"], weights["head.bias"]
    save_file(weights, folder / "bare.safetensors")
    bare = load_prior(f"timm:test_vit@{folder / 'bare.safetensors'}")
    assert bare.digests() == by_file.digests()
    weights["cls_token"] += 1
    save_file(weights, folder / "other.safetensors")
    assert load_prior(f"timm:test_vit@{folder / 'other.safetensors'}").digests() != bare.digests()
    said = "\n".join(bare.describe(Conditions()))
    assert f"digests: model {bare.digests()['model']}" in said
    assert "43 taps at strides [16]" in said


def test_a_file_may_lack_what_is_no_weight(tmp_path: Path) -> None:
    """Counts of batches: only training asks for them."""
    folder = write_folder(tmp_path, *MODELS["resnet"][:2])
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors")
    prior = load_prior(f"timm:{folder}")
    prior.check_tensors()
    model: Any = prior.load(torch.float32)  # type: ignore[attr-defined]
    assert torch.equal(model.bn1.running_mean, weights["bn1.running_mean"])


class Fake(torch.nn.Module):
    """Two stages of one block each, behind each other: the first of a stride of 4; the second gives rows of tokens."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.add_module("layer1" if named else "one", torch.nn.Sequential(torch.nn.Conv2d(3, 5, 4, 4)))
        self.add_module("layer2" if named else "two", torch.nn.Sequential(torch.nn.Flatten(2)))
        self.feature_info = [{"module": "one"}, {"module": "two"}]

    def forward_features(self, pixels: Tensor) -> Tensor:
        for stage in self.children():
            pixels = stage(pixels)
        return pixels


@pytest.mark.parametrize(
    ("named", "tap", "module"), [(True, "cnn-stage1-block00-out", "layer1.0"), (False, "cnn-stage1-out", "one")]
)
def test_of_a_cnn_what_gives_grids_is_a_tap(named: bool, tap: str, module: str) -> None:
    assert timm_table(Fake(named).to("meta"), "x") == {tap: TapSpec(tap, module, "grid", 5, 4)}


def test_weights_in_another_naming_go_through_timm_s_conversion(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("test_convnext")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "own.safetensors")
    renames = (("stem.", "downsample_layers.0."), (".conv_dw.", ".dwconv."), (".mlp.fc1.", ".pwconv1."))
    renames += ((".mlp.fc2.", ".pwconv2."), ("head.fc.", "head."), ("head.norm.", "norm."))
    theirs = {}
    for name, value in model.state_dict().items():
        for new, old in renames:
            name = name.replace(new, old)
        parts = name.split(".")
        if parts[0] == "stages" and parts[2] == "downsample":
            name = ".".join(["downsample_layers", parts[1], *parts[3:]])
        theirs[name.replace(".blocks.", ".")] = value.contiguous()
    save_file(theirs, tmp_path / "published.safetensors")
    published = load_prior(f"timm:test_convnext@{tmp_path / 'published.safetensors'}")
    published.check_tensors()
    own = load_prior(f"timm:test_convnext@{tmp_path / 'own.safetensors'}")
    taps = list(own.taps)
    for name, value in read(published, taps).items():  # type: ignore[arg-type]
        assert torch.equal(value, read(own, taps)[name])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "timm:vit_smal_patch16_dinov3",
            "timm has no model 'vit_smal_patch16_dinov3'; the nearest is 'vit_small_patch16_",
        ),
        ("timm:resnet50.a1_in2k", "timm has no weights 'a1_in2k' of resnet50; the nearest are 'a1_in1k'"),
        ("timm:resnet50@nowhere.safetensors", "no such file as nowhere.safetensors; wanted there: the weights"),
    ],
)
def test_names_that_timm_does_not_know(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_prior(name)
    assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_name_the_first_tensor(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "test_vit", {})
    for other, message in (
        ("test_vit2", "not the weights of test_vit2: .*(is missing|expected)"),
        ("test_resnet", r"not the weights of test_resnet: conv1.* is missing"),
        ("test_vit3", "not the weights of test_vit3"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_prior(f"timm:{other}@{folder / 'model.safetensors'}").check_tensors()
    with pytest.raises(CheckpointError, match=r"class_token|cls_token is \[1, 1, 64\]"):
        load_prior(f"timm:vit_tiny_patch16_224@{folder / 'model.safetensors'}").check_tensors()
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="names no architecture of timm"):
        load_prior(f"timm:{folder}")
    (folder / "config.json").write_text('{"architecture": "test_vit", "model_args": {"depht": 3}}')
    with pytest.raises(CheckpointError, match="timm does not build it .*depht"):
        _ = load_prior(f"timm:{folder}").taps


def test_weights_on_a_hub_that_cannot_be_reached_are_one_line() -> None:
    prior = load_prior("timm:vit_small_patch16_dinov3.lvd1689m")
    assert len(prior.taps) == 12 * 7 + 1
    assert prior.taps["vit-block11-ffn-inner"].channels == 1536
    with pytest.raises(
        CheckpointError, match="timm/vit_small_patch16_dinov3.lvd1689m: the hub cannot be reached"
    ) as caught:
        prior.digests()
    assert "\n" not in str(caught.value)


def test_what_a_prior_cannot_be_asked_for_is_one_line() -> None:
    prior = load_prior("timm:vit_base_patch14_dinov2.lvd142m")
    with pytest.raises(ConfigError, match="height 1280: must be a positive multiple of 14; nearest are 1274 and 1288"):
        check_pass(prior, (1280, 1274), ["vit-norm"], [0], Conditions())
    with pytest.raises(ConfigError, match="timesteps 3: timm:vit_base.* has none but 0: it is no diffusion model"):
        check_pass(prior, (1274, 1288), ["vit-norm"], [0, 3], Conditions())
    with pytest.raises(UnknownTapError, match="the nearest is 'vit-block11-out'"):
        check_pass(prior, (1274, 1288), ["vit-block12-out"], [0], Conditions())
    with pytest.raises(CheckpointError, match="has no UNet"):
        load_prior("timm:resnet50", unet="other")


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "beit_base_patch16_224"])
def test_a_model_of_another_kind_is_one_line(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"timm:{name}: ") as caught:
        _ = load_prior(f"timm:{name}").taps
    assert "\n" not in str(caught.value)

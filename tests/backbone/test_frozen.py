"""FrozenUNet as a library: the README's example, real photographs, canvases, errors."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from diffps.backbone.checkpoint import Checkpoint
from diffps.backbone.frozen import FrozenUNet
from diffps.errors import ConfigError, DivergedError, ImageError, PromptError, UnknownTapError

RES = "up-level1-repeat1-res-out"
MAP = "up-level3-repeat0-vit-block0-cross-map"


def portrait() -> Path:
    """A real photograph that matplotlib ships."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def test_the_readme_s_example(folder: Path) -> None:
    unet = FrozenUNet.from_pretrained(str(folder), device="cpu", dtype="float32")
    features = unet.extract(
        [portrait()], taps=[RES, MAP], timestep=0, prompt="a person", words=["person"], canvas=(128, 192)
    )
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        RES: (1, unet.taps[RES].channels, 128 // 32, 192 // 32),
        f"{MAP}.person": (1, 1, 128 // 8, 192 // 8),
    }
    assert all(bool(value.isfinite().all()) for value in features.values())


@pytest.mark.parametrize("canvas", [(64, 64), (128, 64), (64, 320)])
def test_every_tap_of_a_photograph_at_once_on_any_canvas(frozen: FrozenUNet, canvas: tuple[int, int]) -> None:
    features = frozen.extract([portrait()], list(frozen.taps), prompt="person", canvas=canvas, head="all")
    assert set(features) == set(frozen.taps)
    for name, value in features.items():
        tap = frozen.taps[name]
        if tap.kind == "grid":
            assert value.shape == (1, tap.channels, canvas[0] // tap.stride, canvas[1] // tap.stride)
        elif tap.kind == "cross-map":
            assert torch.allclose(value.sum(2), torch.ones(()), atol=1e-4)
        elif tap.kind == "self-map":
            assert value.shape[2] == value.shape[3] * value.shape[4]


def test_an_image_s_features_do_not_depend_on_its_batch(frozen: FrozenUNet) -> None:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (50, 70, 3), np.uint8) for _ in range(3)]
    together = frozen.extract(images, [RES], 20, "person", canvas=(64, 64))[RES]
    for i, image in enumerate(images):
        alone = frozen.extract([image], [RES], 20, "person", canvas=(64, 64))[RES]
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-4)


def test_mirrored_view_seed_noise_and_prompt_matter(frozen: FrozenUNet) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)

    def run(**options: object) -> torch.Tensor:
        return frozen.extract([image], [RES], canvas=(64, 64), **{"timestep": 50, "prompt": "person", **options})[RES]

    plain = run()
    assert torch.equal(run(), plain)
    assert torch.equal(run(seed=0, noise="seeded", view="identity", latent="mean"), plain)
    unsaid = frozen.extract([image], [RES], canvas=(64, 64))[RES]
    assert torch.equal(run(timestep=0, prompt=""), unsaid)
    assert not torch.equal(run(timestep=1, prompt=""), unsaid)
    for options in (
        {"seed": 1},
        {"noise": "none"},
        {"view": "hflip"},
        {"timestep": 51},
        {"latent": "sample"},
        {"prompt": "head"},
    ):
        assert not torch.equal(run(**options), plain), options


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close(folder: Path, frozen: FrozenUNet, dtype: str) -> None:
    half = FrozenUNet.from_pretrained(str(folder), dtype=dtype)
    options = {"prompt": "person", "canvas": (64, 64), "words": ["person"]}
    found = half.extract([portrait()], [RES, MAP], **options)
    expected = frozen.extract([portrait()], [RES, MAP], **options)
    assert found[RES].dtype == half.dtype
    assert found[f"{MAP}.person"].dtype == torch.float32
    assert float((found[RES].float() - expected[RES]).norm() / expected[RES].norm()) < 0.05


def test_what_overflows_half_precision_is_one_error(checkpoint: Checkpoint) -> None:
    half = FrozenUNet(checkpoint, dtype="float16")
    half.unet.conv_in.bias.fill_(6.5e4)
    half.unet.conv_in.weight.fill_(6e4)
    with pytest.raises(DivergedError, match="unet-after-conv-in: NaN or infinity in torch.float16; bfloat16"):
        half.extract([portrait()], ["unet-after-conv-in"], canvas=(64, 64))


def test_a_tensor_of_images_is_taken_as_the_canvas(frozen: FrozenUNet) -> None:
    found = frozen.extract(torch.zeros(2, 3, 64, 128), [RES])
    assert found[RES].shape[2:] == (2, 4)
    default = frozen.extract([np.zeros((9, 9, 3), np.uint8)], ["unet-in"])["unet-in"]
    side = frozen.checkpoint.unet_config["sample_size"]
    assert default.shape == (1, 4, side, side)


def test_bad_input_is_one_clear_error(frozen: FrozenUNet) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ConfigError, match="height 100: must be a positive multiple of 64"):
        frozen.extract([image], [RES], canvas=(100, 64))
    with pytest.raises(ConfigError, match="height 60: must be a positive multiple of 64"):
        frozen.extract(torch.zeros(1, 3, 60, 64), [RES])
    with pytest.raises(ImageError, match=r"\(1, 3, 64, 64\); expected \(B, 3, H, W\), and no canvas beside it"):
        frozen.extract(torch.zeros(1, 3, 64, 64), [RES], canvas=(64, 64))
    with pytest.raises(ImageError, match=r"a tensor \(3, 64, 64\)"):
        frozen.extract(torch.zeros(3, 64, 64), [RES])
    with pytest.raises(ImageError, match="none given"):
        frozen.extract([], [RES])
    with pytest.raises(ImageError, match=r"\(1, 4, 64, 64\)"):
        frozen.extract(torch.zeros(1, 4, 64, 64), [RES])
    with pytest.raises(UnknownTapError, match="nearest"):
        frozen.extract(["nowhere.png"], ["up-level1-repeat1-res-aut"], canvas=(64, 64))  # before an image is read
    with pytest.raises(PromptError, match="not in the prompt"):
        frozen.extract([image], [MAP], prompt="a street", words=["person"], canvas=(64, 64))
    for timestep in (-1, 1000):
        with pytest.raises(ConfigError, match=rf"^timestep {timestep}: this checkpoint was trained with 0 to 999$"):
            frozen.extract([image], [RES], timestep, canvas=(64, 64))
    frozen.extract([image], [RES], 999, canvas=(64, 64))
    with pytest.raises(ConfigError, match=r"^dtype 'int8': expected float32, bfloat16, float16$"):
        FrozenUNet(frozen.checkpoint, dtype="int8")


def test_the_unet_can_be_used_again_after_an_error(frozen: FrozenUNet) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ConfigError):
        frozen.extract([image], [RES], 1000, canvas=(64, 64))
    assert not any(module._forward_hooks for module in frozen.unet.modules())
    assert frozen.extract([image], [RES], canvas=(64, 64))[RES].isfinite().all()


def test_a_mirrored_view_is_the_view_of_the_mirrored_picture(frozen: FrozenUNet) -> None:
    """Of a picture without any symmetry, as an array and as a tensor, also where it is stretched."""
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    tensor = torch.rand(1, 3, 64, 128) * 2 - 1

    def run(given: object, view: str, canvas: tuple[int, int] | None) -> torch.Tensor:
        return frozen.extract(given, [RES], 20, canvas=canvas, noise="none", view=view)[RES]  # type: ignore[arg-type]

    mirrored = run([image], "hflip", (64, 128))
    torch.testing.assert_close(mirrored, run([np.ascontiguousarray(image[:, ::-1])], "identity", (64, 128)))
    assert not torch.equal(mirrored, run([image], "identity", (64, 128)))
    assert torch.equal(run(tensor, "hflip", None), run(tensor.flip(3), "identity", None))
    assert not torch.equal(run(tensor, "hflip", None), run(tensor, "identity", None))


def test_a_unet_that_was_trained_at_no_size_has_canvases_of_512(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    path = copy / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": None}))
    pixels = FrozenUNet.from_pretrained(str(copy))._pixels([np.zeros((9, 9, 3), np.uint8)], None, "identity")
    assert pixels.shape == (1, 3, 512, 512)

"""Profiles, levels of more than 8 bits and odd modes become the sRGB that a viewer shows, by rules that are stated."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from diffps.datasets.files import ImageFacts, measure_image
from diffps.errors import ImageError
from diffps.images import load_image, load_scene
from tests.images import writers


def linear(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encoded(values: np.ndarray) -> np.ndarray:
    values = values.clip(0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def plain(path: Path) -> str:
    """The digest of a file's bytes and nothing else."""
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def saved(folder: Path, image: Image.Image, name: str = "x.png", **options: object) -> tuple[Path, ImageFacts]:
    image.save(folder / name, **options)
    return folder / name, measure_image(folder / name)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp", "x.jpg", "x.avif"])
def test_a_wide_gamut_image_shows_the_colour_a_viewer_shows(tmp_path: Path, name: str) -> None:
    p3 = np.array([200, 80, 60])
    options = {"lossless": True} if name == "x.webp" else {"quality": 100} if name in ("x.jpg", "x.avif") else {}
    image = Image.new("RGB", (16, 16), tuple(p3.tolist()))
    path, facts = saved(tmp_path, image, name, icc_profile=writers.rgb_profile(writers.P3), **options)
    to_xyz, from_xyz = np.array(writers.P3).T, np.linalg.inv(np.array(writers.SRGB).T)
    expected = encoded(from_xyz @ to_xyz @ linear(p3 / 255)) * 255
    found = load_image(path)[8, 8].astype(float)
    assert np.abs(found - expected).max() <= 3
    assert np.abs(found - p3).max() >= 10
    assert "profile" in facts.notes


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_srgb_under_another_name_changes_nothing(tmp_path: Path, mode: str) -> None:
    image = writers.in_mode(writers.noise(9, 7), mode)
    plain_path, _ = saved(tmp_path, image, "plain.png")
    path, facts = saved(tmp_path, image, "x.png", icc_profile=writers.rgb_profile(writers.SRGB))
    assert np.array_equal(load_image(path), load_image(plain_path))
    assert facts.digest == plain(path)
    assert facts.notes == ()


def test_what_a_rule_changes_has_another_name_than_the_plain_decoding(tmp_path: Path) -> None:
    path, facts = saved(tmp_path, Image.new("RGB", (4, 4), "red"), icc_profile=writers.rgb_profile(writers.P3))
    assert facts.digest != plain(path)
    assert load_scene(path, facts.digest).shape == (4, 4, 3)
    with pytest.raises(ImageError, match="changed since it was indexed"):
        load_scene(path, plain(path))


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        pytest.param("RGB", b"no profile at all", id="nonsense"),
        pytest.param("RGB", writers.rgb_profile(writers.P3)[:200], id="cut"),
        pytest.param("RGB", writers.grey_profile(1.8), id="grey for colour"),
        pytest.param("RGB", writers.cmyk_profile((255, 128, 128), (140, 80, 80)), id="inks for light"),
        pytest.param("CMYK", writers.rgb_profile(writers.P3), id="light for inks"),
    ],
)
def test_a_profile_that_does_not_fit_is_left_out_and_counted(tmp_path: Path, mode: str, profile: bytes) -> None:
    image = writers.in_mode(writers.noise(9, 7), mode)
    plain_path, _ = saved(tmp_path, image, "plain.tif")
    path, facts = saved(tmp_path, image, "x.tif", icc_profile=profile)
    assert np.array_equal(load_image(path), load_image(plain_path))
    assert facts.notes == ("profile_broken",)


def test_a_grey_profile_is_applied(tmp_path: Path) -> None:
    path, facts = saved(tmp_path, Image.new("L", (4, 4), 100), icc_profile=writers.grey_profile(1.0))
    expected = encoded(np.array(100 / 255)) * 255
    assert np.abs(load_image(path)[0, 0].astype(float) - expected).max() <= 2
    assert facts.notes == ("profile",)


def test_inks_are_shown_by_their_profile(tmp_path: Path) -> None:
    inks = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    path, facts = saved(tmp_path, inks, "x.tif", icc_profile=writers.cmyk_profile((255, 128, 128), (140, 80, 80)))
    red, green, blue = load_image(path)[0, 0].astype(int)
    assert red < 60 < green < blue  # Lab 55, -48, -48 is a dull cyan, not the screen's 0, 255, 255
    assert green < 200
    assert facts.notes == ("profile",)


def test_transparency_lies_over_white_after_the_profile(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (200, 80, 60, 0))
    image.putpixel((1, 0), (200, 80, 60, 255))
    path, _ = saved(tmp_path, image, icc_profile=writers.rgb_profile(writers.P3))
    found = load_image(path)
    assert tuple(found[0, 0]) == (255, 255, 255)
    assert found[0, 1, 0] > 210


def test_lab_is_shown(tmp_path: Path) -> None:
    lab = Image.new("LAB", (4, 4), (138, 128 + 80, 128 + 67))  # sRGB's red is L 54, a 80, b 67
    found = load_image(saved(tmp_path, lab, "x.tif")[0])[0, 0].astype(int)
    assert found[0] > 245
    assert found[1] < 30
    assert found[2] < 30


@pytest.mark.parametrize("mode", ["1", "LA", "P", "PA", "La", "RGBa"])
def test_odd_modes_are_shown_over_white(tmp_path: Path, mode: str) -> None:
    from diffps.images.colour import Colours, to_rgb

    image = (
        Image.new("RGBA", (3, 3), "white")
        .convert("LA" if mode in ("La", "PA") else "RGBA")
        .convert({"La": "La", "PA": "PA"}.get(mode, mode))
    )
    assert np.asarray(to_rgb(image, Colours())).min() == 255


LEVELS = {
    "float 0..1": (np.float32, 1.0, 255),
    "float 0..255": (np.float32, 255.0, 255),
    "float 0..65535": (np.float32, 65535.0, 255),
    "half of float": (np.float32, 0.5, 128),
    "32 bits, 0..255": (np.int32, 255, 255),
    "32 bits, 0..65535": (np.int32, 65535, 255),
    "16 bits": (np.uint16, 65535, 255),
    "half of 16 bits": (np.uint16, 32768, 128),
}


@pytest.mark.parametrize(("kind", "highest", "expected"), LEVELS.values(), ids=LEVELS)
def test_white_is_where_the_rule_says(tmp_path: Path, kind: type, highest: float, expected: int) -> None:
    values = np.linspace(0, highest, 12).astype(kind).reshape(3, 4)
    path, facts = saved(tmp_path, Image.fromarray(values), "x.tif")
    assert int(load_image(path)[-1, -1, 0]) == expected
    assert int(load_image(path)[0, 0, 0]) == 0
    assert facts.notes == ("levels",)
    assert (facts.digest == plain(path)) == (kind == np.uint16)
    assert np.array_equal(load_scene(path, facts.digest), load_image(path))


@pytest.mark.parametrize(
    ("values", "note"),
    [
        pytest.param(np.array([[0, 4095]], np.uint16), "levels_dark", id="12 bits in 16"),
        pytest.param(np.array([[0, 16383]], np.uint16), "levels_dark", id="14 bits in 16"),
        pytest.param(np.array([[-0.5, 1.0]], np.float32), "levels_dark", id="below black"),
        pytest.param(np.array([[0, 1.5]], np.float32), "levels_dark", id="float just above 1"),
        pytest.param(np.array([[0, 17000]], np.uint16), None, id="more than a quarter"),
    ],
)
def test_levels_that_may_mean_another_white_are_doubtful(tmp_path: Path, values: np.ndarray, note: str | None) -> None:
    _, facts = saved(tmp_path, Image.fromarray(values), "x.tif")
    assert set(facts.notes) - {"levels"} == ({note} - {None})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param(np.array([[0, np.nan]], np.float32), "NaN or infinite", id="nan"),
        pytest.param(np.array([[0, np.inf]], np.float32), "NaN or infinite", id="inf"),
        pytest.param(np.array([[0, 70000]], np.float32), "go up to 70000", id="float"),
        pytest.param(np.array([[0, 2**31 - 1]], np.int32), "go up to 2.14748e", id="int"),
    ],
)
def test_levels_that_no_rule_covers_are_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    for read in (load_image, measure_image):
        with pytest.raises(ImageError, match=f"x.tif: .*{message}"):
            read(tmp_path / "x.tif")


def test_the_bits_that_a_tiff_states_decide(tmp_path: Path) -> None:
    values = np.array([[0, 2048], [4095, 1024]], np.uint16)
    path = writers.tiff(tmp_path / "x.tif", writers.twelve_bits(values), values.shape, {258: 12})
    assert load_image(path)[..., 0].tolist() == [[0, 128], [255, 64]]
    assert measure_image(path).notes == ("levels",)
    assert measure_image(path).digest != plain(path)


def test_a_16_bit_tiff_whose_0_is_white_is_not_a_negative(tmp_path: Path) -> None:
    values = np.array([[0, 65535]], "<u2")
    path = writers.tiff(tmp_path / "x.tif", values.tobytes(), values.shape, {258: 16, 262: 0})
    assert load_image(path)[0, :, 0].tolist() == [255, 0]


def test_dark_levels_of_a_format_that_states_its_range_are_not_stretched(tmp_path: Path) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5 2 1 65535\n" + np.array([0, 200], ">u2").tobytes())
    assert load_image(tmp_path / "x.pgm").max() == 1
    (tmp_path / "y.pgm").write_bytes(b"P5 2 1 4095\n" + np.array([0, 4095], ">u2").tobytes())
    assert load_image(tmp_path / "y.pgm").max() == 255


@given(arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)))
def test_float_levels_up_to_1_are_rounded_to_the_nearest_of_255(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray
) -> None:
    path = tmp_path_factory.mktemp("x") / "x.tif"
    Image.fromarray(values).save(path)
    assert np.array_equal(load_image(path)[..., 0], (values.astype(float) * 255).round())

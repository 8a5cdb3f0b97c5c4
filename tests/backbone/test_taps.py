"""The tap table against the measured one of SD 2.1 at 1280 x 1280, and against the real topology on the meta device."""

import csv
from pathlib import Path

import pytest
import torch

from diffps.backbone.capture import Request, TapReader
from diffps.backbone.published import check_ids, published_models
from diffps.errors import CheckpointError, UnknownTapError
from diffps.taps import SDXL_UNET, STANDARD_UNET, FeatureName, standard_taps, tap_kind, tap_table

MEASURED = Path(__file__).resolve().parents[3] / "shared" / "data" / "sd21_taps_1280.tsv"


@pytest.mark.skipif(not MEASURED.is_file(), reason="the measured table lies beside the repository, not in it")
def test_ids_modules_and_shapes_are_those_measured() -> None:
    with MEASURED.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    table = standard_taps()
    assert list(table) == [row["gdf_id"] for row in rows]
    for row in rows:
        tap = table[row["gdf_id"]]
        side = 1280 // tap.stride if tap.stride else 0
        shape = {
            "grid": (1, tap.channels, side, side),
            "text": (1, 77, tap.channels),
            "self-map": (1, tap.channels, side**2, side**2),
            "cross-map": (1, tap.channels, side**2, 77),
        }[tap.kind]
        assert tap.module == row["module"]
        assert shape == tuple(map(int, row["shape"].split("x"))), tap.id


def test_there_are_229_taps_and_each_is_named_once() -> None:
    table = standard_taps()
    assert len(table) == 229
    assert all(tap.id == name for name, tap in table.items())


@pytest.mark.parametrize(("height", "width"), [(160, 160), (48, 80)])
def test_what_sd21_gives_on_the_meta_device_is_what_the_table_says(height: int, width: int) -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**STANDARD_UNET, use_linear_projection=True).eval()
        latents, text = torch.zeros(2, 4, height, width), torch.zeros(1, 77, 1024)
    table = standard_taps()
    taps = tuple(tap for tap in table if table[tap].kind != "self-map" or table[tap].stride > 8)
    request = Request(taps, head="all")
    with torch.inference_mode(), TapReader(unet, table, request) as reader:
        found = reader.run(latents, torch.zeros(1, device="meta"), text)
    assert set(found) == set(taps)
    for name, value in found.items():
        tap = table[name]
        grid = (2, height * 8 // tap.stride, width * 8 // tap.stride) if tap.stride else ()
        keys = {"cross-map": (77,), "self-map": (grid[1] * grid[2] if grid else 0,)}.get(tap.kind, ())
        assert tuple(value.shape) == ((2, 77, tap.channels) if tap.kind == "text" else (*grid, tap.channels, *keys))


def test_a_deeper_wider_unet_has_its_own_table() -> None:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 64, 64),
        "layers_per_block": 1,
        "transformer_layers_per_block": (1, 2, 3),
        "attention_head_dim": (2, 4, 4),
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
    }
    from diffusers import UNet2DConditionModel

    table = tap_table(config)
    unet = UNet2DConditionModel(**config)
    for tap in table.values():
        unet.get_submodule(tap.module)
    assert "up-level0-repeat1-vit-block2-cross-map" in table
    assert "down-level0-repeat0-vit-out" not in table


def test_the_table_holds_for_sdxl_s_unet_though_its_text_side_is_missing() -> None:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    table = tap_table(config)
    assert len(table) == 752
    for tap in table.values():
        unet.get_submodule(tap.module)


def test_published_models_have_the_sizes_that_were_published() -> None:
    """SD 2.1, SDXL, PixArt-Sigma (28 blocks of 16 heads of 72) and SD 3 medium (24 blocks of 24 heads of 64)."""
    found = published_models()
    assert [(len(model.taps), model.latent_channels) for model in found] == [(229, 4), (752, 4), (280, 4), (192, 16)]
    for model, name, module, channels in (
        (found[2], "vit-block27-ffn-inner", "transformer_blocks.27.ff.net.0", 4 * 1152),
        (found[2], "vit-block00-cross-map", "transformer_blocks.0.attn2", 16),
        (found[3], "joint-block23-img-attn-out", "transformer_blocks.23.attn", 1536),
        (found[3], "joint-block05-map", "transformer_blocks.5.attn", 24),
    ):
        tap = model.taps[name]
        assert (tap.module, tap.channels, tap.stride) == (module, channels, 16)
    for model in found:
        check_ids(model.taps)


def test_an_unknown_tap_names_the_nearest() -> None:
    with pytest.raises(UnknownTapError, match="nearest is 'up-level3-repeat1-vit-block0-self-k'"):
        check_ids(["up-level3-repeat1-vit-block0-selfk"])
    with pytest.raises(KeyError):
        check_ids(["nothing"])


def test_a_unet_of_another_kind_is_refused() -> None:
    with pytest.raises(CheckpointError, match="AttnDownBlock2D"):
        tap_table({**STANDARD_UNET, "down_block_types": ("AttnDownBlock2D",) * 4})
    with pytest.raises(CheckpointError, match="mid block"):
        tap_table({**STANDARD_UNET, "mid_block_type": "UNetMidBlock2D"})


def test_a_phrase_is_one_name() -> None:
    name = str(FeatureName("x-map", "red  shirt"))
    assert name == "x-map.red-shirt"
    assert FeatureName.parse(name) == FeatureName("x-map", "red-shirt")
    assert FeatureName.parse("mid-vit-out") == FeatureName("mid-vit-out")


def test_the_sizes_of_the_two_unets() -> None:
    """What is published of them, place by place; text has a row per token and no stride."""
    for config, inner, context in ((STANDARD_UNET, 1280, "mid-vit-block0"), (SDXL_UNET, 1280, "mid-vit-block9")):
        table = tap_table(config)
        assert (table["unet-in"].channels, table["unet-out"].channels) == (4, 4)
        assert (table["unet-after-conv-in"].channels, table["unet-after-conv-in"].stride) == (320, 8)
        deepest = 8 << (len(config["block_out_channels"]) - 1)
        for part in ("k", "v"):
            tap = table[f"{context}-cross-{part}"]
            assert (tap.kind, tap.channels, tap.stride) == ("text", inner, 0)
        assert (table[f"{context}-cross-map"].channels, table[f"{context}-cross-map"].stride) == (20, deepest)
        assert (table[f"{context}-ffn-inner"].channels, table[f"{context}-out"].channels) == (4 * inner, inner)
    assert [config["cross_attention_dim"] for config in (STANDARD_UNET, SDXL_UNET)] == [1024, 2048]
    assert STANDARD_UNET["block_out_channels"] == (320, 640, 1280, 1280)
    assert SDXL_UNET["block_out_channels"] == (320, 640, 1280)
    heads = {name: tap.channels for name, tap in tap_table(SDXL_UNET).items() if name.endswith("block0-cross-map")}
    assert heads["down-level1-repeat0-vit-block0-cross-map"] == 10
    assert heads["up-level0-repeat2-vit-block0-cross-map"] == 20


@pytest.mark.parametrize("depth", [None, 0])
def test_a_depth_that_is_not_given_is_one(depth: int | None) -> None:
    assert tap_table({**STANDARD_UNET, "transformer_layers_per_block": depth}) == standard_taps()


def test_kinds_by_their_ids() -> None:
    kinds = {name: tap_kind(name) for name in standard_taps()}
    assert kinds == {name: tap.kind for name, tap in standard_taps().items()}

"""What the headers of the presets for other priors claim, computed from published configs alone."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from diffps.backbone.dit_taps import PIXART_SIGMA, SD3_MEDIUM
from diffps.backbone.families import load_prior
from diffps.backbone.prior import CLIP
from diffps.taps import SDXL_UNET
from pipeline.config import load_params
from stages.config_data import EncodeConfig, ExtractConfig
from stages.forecasts.size import Sizes, budget
from stages.params import Params
from stages.sweeps.variants import read_variants
from tests.backbone.published import VAE

ROOT = Path(__file__).parents[2]
PRW = {"train": 5704, "test": 6112}
PRESETS = ("prw-resnet50", "prw-dinov3", "prw-siglip2", "prw-sdxl", "prw-pixart", "prw-sd3")

# As published; what is not stated here has the library's default.
SIGLIP2_LARGE = {
    "model_type": "siglip",
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "vocab_size": 256000,
    },
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 256,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 16,
    },
}


SDXL_VAE = {**VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}
SDXL_TEXT = {
    "text_encoder": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12},
    "text_encoder_2": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "projection_dim": 1280,
    },
}
SDXL = {
    **SDXL_UNET,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


T5_XXL = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
PIXART = {
    "_class_name": "PixArtTransformer2DModel",
    **PIXART_SIGMA,
    "in_channels": 4,
    "out_channels": 8,
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
    "sample_size": 128,
    "interpolation_scale": 2,
    "use_additional_conditions": False,
}
SD3 = {
    "_class_name": "SD3Transformer2DModel",
    **SD3_MEDIUM,
    "in_channels": 16,
    "out_channels": 16,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "sample_size": 128,
}
SD3_VAE = {
    **VAE,
    "sample_size": 1024,
    "latent_channels": 16,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
SD3_TEXT = {part: {"projection_dim": config["hidden_size"], **config} for part, config in SDXL_TEXT.items()}
PARTS = {
    "sdxl": {"unet": SDXL, "vae": SDXL_VAE, **SDXL_TEXT},
    "pixart": {"transformer": PIXART, "vae": SDXL_VAE, "text_encoder": T5_XXL},
    "sd3": {"transformer": SD3, "vae": SD3_VAE, **SD3_TEXT, "text_encoder_3": T5_XXL},
}


def write_configs(folder: Path, parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Configs as published, and no weights."""
    for part, config in parts.items():
        (folder / part).mkdir(exist_ok=True)
        (folder / part / "config.json").write_text(json.dumps(config))
        stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
        save_file({}, folder / part / f"{stem}.safetensors")
    (folder / "model_index.json").write_text("{}")


@pytest.fixture(params=PRESETS)
def preset(request: pytest.FixtureRequest) -> str:
    return request.param  # type: ignore[no-any-return]


def cost(params: Params, folder: Path) -> tuple[float, float, float]:
    """GB of the store, MB and TFLOP of an image, on PRW."""
    encode, extract = params.encode, params.extract
    name = encode.checkpoint
    if name.startswith(CLIP):
        (folder / "config.json").write_text(json.dumps(SIGLIP2_LARGE))
        name = f"{CLIP}{folder}"
    elif extract.name in PARTS:
        write_configs(folder, PARTS[extract.name])
        name = str(folder)
    prior = load_prior(name)
    planned = budget(PRW, encode, extract, 16, Sizes(prior.taps, prior.latent_channels))  # type: ignore[arg-type]
    image = sum(array.spec.image_bytes for array in planned.arrays if array.spec.group.split == "test")
    flops = sum(prior.flops(encode.canvas, extract.taps).values())
    return image * (2 * PRW["train"] + PRW["test"]) / 1e9, image / 1e6, flops / 1e12


def test_sizes_and_operations_in_the_header_are_those_computed(preset: str, tmp_path: Path) -> None:
    path = ROOT / "presets" / f"{preset}.yaml"
    params, _ = load_params(path)
    text = path.read_text()
    store, image, flops = cost(params, tmp_path)
    stated = re.search(r"Store: ([\d,]+) GB \(17,520 images .*, ([\d.]+) MB each", text)
    assert stated
    assert float(stated[1].replace(",", "")) == pytest.approx(store, abs=0.6)
    assert float(stated[2]) == pytest.approx(image, abs=0.06)
    operations = re.search(r"Backbone: ([\d.]+) TFLOP an image", text)
    assert operations
    assert float(operations[1]) == pytest.approx(flops, abs=0.006)
    smaller = re.search(r"at canvas \[1024, 1024\] ([\d,]+) GB and ([\d.]+) TFLOP", text)
    if smaller:
        encode: EncodeConfig = replace(params.encode, canvas=(1024, 1024))
        store, _, flops = cost(replace(params, encode=encode), tmp_path)
        assert float(smaller[1].replace(",", "")) == pytest.approx(store, abs=0.6)
        assert float(smaller[2]) == pytest.approx(flops, abs=0.006)


def test_the_heads_read_what_is_extracted(preset: str) -> None:
    params, _ = load_params(ROOT / "presets" / f"{preset}.yaml")
    extract: ExtractConfig = params.extract
    assert set(params.train.taps.names) == set(extract.names)
    assert (params.train.model.dgrpn is None) == (params.train.taps.guidance is None)


def test_the_sweep_over_priors_takes_pass_and_head_of_each_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    params, _ = load_params(Path("presets/prw.yaml"), ["sweep.file=presets/sweeps/priors.yaml"])
    variants = {variant.name: variant for variant in read_variants(params)}
    assert len(variants) == (len(PRESETS) + 1) * 3
    assert variants["sd21-seed2"].params.encode == params.encode
    for name in PRESETS:
        own, _ = load_params(Path(f"presets/{name}.yaml"))
        variant = variants[f"{own.extract.name}-seed1"].params
        assert (variant.encode, variant.extract, variant.train) == (own.encode, own.extract, own.train)
        assert variant.evaluate == params.evaluate

"""What the config files of a checkpoint leave out.

A published file states what its version of diffusers knew, and no more: those of SD 1.x and 2.x name no middle block
and no scaling factor. diffusers and transformers fill the gaps as they load; here the same is done for whoever reads a
config without them, so that a part has one config, however old its file.
"""

from collections.abc import Mapping
from typing import Any, Literal

from diffps.errors import CheckpointError

ConfigPart = Literal["unet", "vae", "text_encoder", "text_encoder_2", "scheduler", "pixart", "sd3", "t5"]

_TEXT: Mapping[str, Any] = {
    "attention_dropout": 0.0,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "hidden_act": "quick_gelu",
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "pad_token_id": 1,
    "projection_dim": 512,
    "vocab_size": 49408,
}
_TEXT_SIZES = {"hidden_size": int, "intermediate_size": int, "num_attention_heads": int, "num_hidden_layers": int}

# Every digest goes over these keys and values (see identity.py): a change here takes their features from all stores.
DEFAULTS: Mapping[ConfigPart, Mapping[str, Any]] = {
    "unet": {
        "act_fn": "silu",
        "addition_embed_type": None,
        "addition_embed_type_num_heads": 64,
        "addition_time_embed_dim": None,
        "attention_head_dim": 8,
        "attention_type": "default",
        "center_input_sample": False,
        "class_embed_type": None,
        "class_embeddings_concat": False,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "cross_attention_norm": None,
        "downsample_padding": 1,
        "dropout": 0.0,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "layers_per_block": 2,
        "mid_block_only_cross_attention": None,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "num_attention_heads": None,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "projection_class_embeddings_input_dim": None,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "resnet_time_scale_shift": "default",
        "reverse_transformer_layers_per_block": None,
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
        "time_embedding_dim": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
        "transformer_layers_per_block": 1,
        "upcast_attention": False,
        "use_linear_projection": False,
    },
    "vae": {
        "act_fn": "silu",
        "force_upcast": True,
        "in_channels": 3,
        "latents_mean": None,
        "latents_std": None,
        "layers_per_block": 1,
        "mid_block_add_attention": True,
        "norm_num_groups": 32,
        "out_channels": 3,
        "scaling_factor": 0.18215,
        "shift_factor": None,
        "use_post_quant_conv": True,
        "use_quant_conv": True,
    },
    "text_encoder": {"architectures": ["CLIPTextModel"], **_TEXT},
    "text_encoder_2": {"architectures": ["CLIPTextModelWithProjection"], **_TEXT},
    # Those every scheduler of diffusers has; their betas differ, so betas have to be stated.
    "scheduler": {"num_train_timesteps": 1000, "rescale_betas_zero_snr": False, "trained_betas": None},
    "pixart": {
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_type": "default",
        "interpolation_scale": None,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "norm_type": "ada_norm_single",
        "num_embeds_ada_norm": 1000,
        "upcast_attention": False,
        "use_additional_conditions": None,
    },
    "sd3": {"dual_attention_layers": (), "qk_norm": None},
    "t5": {
        "feed_forward_proj": "relu",
        "layer_norm_epsilon": 1e-6,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "vocab_size": 32128,
    },
}

# What says which model it is: diffusers' defaults for these are other models, and no published file leaves them out.
REQUIRED: Mapping[ConfigPart, Mapping[str, type]] = {
    "unet": {
        "in_channels": int,
        "out_channels": int,
        "down_block_types": list,
        "up_block_types": list,
        "block_out_channels": list,
        "cross_attention_dim": int,
    },
    "vae": {"latent_channels": int, "down_block_types": list, "up_block_types": list, "block_out_channels": list},
    "text_encoder": _TEXT_SIZES,
    "text_encoder_2": _TEXT_SIZES,
    "scheduler": {"beta_start": float, "beta_end": float, "beta_schedule": str},
    "pixart": {
        "num_attention_heads": int,
        "attention_head_dim": int,
        "num_layers": int,
        "in_channels": int,
        "out_channels": int,
        "cross_attention_dim": int,
        "caption_channels": int,
        "patch_size": int,
        "sample_size": int,  # positions are stretched by it
    },
    "sd3": {
        "num_attention_heads": int,
        "attention_head_dim": int,
        "num_layers": int,
        "in_channels": int,
        "out_channels": int,
        "joint_attention_dim": int,
        "caption_projection_dim": int,
        "pooled_projection_dim": int,
        "patch_size": int,
        "pos_embed_max_size": int,
    },
    "t5": {"d_model": int, "d_kv": int, "d_ff": int, "num_layers": int, "num_heads": int},
}
_KINDS: Mapping[type, tuple[str, tuple[type, ...]]] = {
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("a name", (str,)),
    list: ("a list", (list, tuple)),
}


def complete(part: ConfigPart, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``config`` with the defaults of what it leaves out; ``where`` is what an error calls its file.

    Values equal to the default become it (1 and 1.0 are one config). Raises CheckpointError for what no default can
    stand in for.
    """
    for key, kind in REQUIRED[part].items():
        expected, types = _KINDS[kind]
        if config.get(key) is None:
            raise CheckpointError(f"{where} lacks {key} ({expected}); take the file from where the model was published")
        if not isinstance(config[key], types):
            raise CheckpointError(f"{where}: {key} is {config[key]!r}; expected {expected}")
    defaults = DEFAULTS[part]
    return {**config, **{key: value for key, value in defaults.items() if config.get(key, value) == value}}

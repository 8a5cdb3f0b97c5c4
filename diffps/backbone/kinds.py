"""What a file of weights is, told by the names of its tensors: for errors that say what lies there."""

import re
from collections.abc import Collection

# The first that matches any name; what is told last is what others contain as well.
_KINDS = (
    (
        r"lora_|\.lora\.|\.hada_w|\.lokr_w|\.dora_scale|\.alpha$",
        "a LoRA: changes to a UNet, no weights of one; load and fuse it with diffusers (load_lora_weights, fuse_lora) "
        "and save the UNet",
    ),
    (r"\.absmax$|\.quant_map|\.qweight$|\.scale_weight$|\.weight_scale$", "quantised weights; take unquantised ones"),
    (r"^control_model\.|^controlnet_", "a ControlNet"),
    (r"(^|\.)motion_modules\.", "a motion module of AnimateDiff"),
    (r"^emb_params$|^string_to_param|^clip_[lg]$", "a textual inversion"),
    (
        r"^conditioner\.embedders\.",
        "an SDXL checkpoint in the original layout; of SDXL the folder in diffusers' layout is read",
    ),
    (r"(^|\.)joint_blocks\.", "a transformer of SD 3 in the original layout"),
    (r"(^|\.)double_blocks\.", "a transformer of FLUX in the original layout"),
    (r"^(model\.diffusion_model|first_stage_model|cond_stage_model)\.", "a file in the original layout"),
    (r"^visual\.|vision_model\.", "an image encoder"),
    (r"^(encoder|decoder)\.(mid_block|mid)\.", "a VAE"),
    (r"^(down_blocks|up_blocks|mid_block)\.", "a UNet of diffusers"),
    (r"^transformer_blocks\.|^single_transformer_blocks\.", "a diffusion transformer of diffusers"),
    (r"layer\.\d+\.SelfAttention\.|^shared\.weight$", "a T5 text encoder"),
    (r"encoder\.layers\.\d+\.self_attn\.|^transformer\.resblocks\.", "a CLIP text encoder"),
)


def describe(names: Collection[str]) -> str:
    """What tensors of these ``names`` make up: "a LoRA …", or their number and an example."""
    for pattern, kind in _KINDS:
        if any(re.search(pattern, name) for name in names):
            return kind
    return f"{len(names)} tensors, e.g. {min(names)}" if names else "no tensors"

"""Where images enter: any file of the formats people use, as the RGB picture a viewer would show."""

from diffps.images.canvas import RESIZE_RULE, canvas_tensor, to_canvas_tensor
from diffps.images.display import Display, inspect
from diffps.images.opening import FORMATS, MAX_PIXELS, image_bytes, image_file, open_image, sha256_of
from diffps.images.picture import (
    Picture,
    check_scene,
    decode,
    decoder,
    load_image,
    load_scene,
    measured_by,
    read_picture,
)

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "RESIZE_RULE",
    "Display",
    "Picture",
    "canvas_tensor",
    "check_scene",
    "decode",
    "decoder",
    "image_bytes",
    "image_file",
    "inspect",
    "load_image",
    "load_scene",
    "measured_by",
    "open_image",
    "read_picture",
    "sha256_of",
    "to_canvas_tensor",
]

"""One's own data: a folder of images with a CSV of boxes and names, or a COCO file with person ids."""

from diffps.datasets.coco import read_coco
from diffps.datasets.folder import read_folder

__all__ = ["read_coco", "read_folder"]

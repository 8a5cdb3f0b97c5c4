"""The dataset's image files: where a scene's lies, and what is in it as displayed."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffps.errors import ImageError
from diffps.geometry import Canvas
from diffps.images import canvas_tensor, check_scene, load_image
from diffps.names import from_text
from diffps.records import Scene, View
from stages.config_data import IndexConfig
from stages.places import images_root

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The folder of a dataset. An image of more than ``max_pixels`` is refused."""

    root: Path
    max_pixels: int

    @classmethod
    def of(cls, config: IndexConfig) -> "ImageFolder":
        """The folder that section ``index`` names."""
        return cls(images_root(config.root), config.max_pixels)

    def file(self, scene: Scene) -> Path:
        """Where the scene's file lies."""
        return self.root / from_text(scene.path)

    def pixels(self, scene: Scene) -> "NDArray[np.uint8]":
        """(height, width, 3) sRGB as displayed. Raises ImageError."""
        return load_image(self.file(scene), max_pixels=self.max_pixels)

    def on_canvas(self, scene: Scene, canvas: Canvas, view: View) -> "Tensor":
        """(3, canvas height, canvas width) in [-1, 1]. Raises ImageError, also where it is not the file indexed."""
        return canvas_tensor(self.file(scene), canvas, view, digest=scene.digest, max_pixels=self.max_pixels)

    def is_readable(self, scene: Scene) -> bool:
        """True where the scene's file can be decoded now and is the one that was indexed."""
        try:
            check_scene(self.file(scene), scene.digest, max_pixels=self.max_pixels)
        except ImageError:
            return False
        return True

"""The only place where coordinates change: scene frame <-> canvas frame, and their mirror image.

Boxes are (x1, y1, x2, y2) in pixels, x2 and y2 exclusive. The scene frame is the image as displayed (EXIF orientation
applied). The canvas frame is what the backbone sees: the scene stretched to the canvas, aspect ratio not kept.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffps.errors import ConfigError

# Of a canvas's sides for diffusion models: the VAE halves three times and a UNet three times more.
SIDE_MULTIPLE = 64


@dataclass(frozen=True, slots=True)
class Canvas:
    """The frame every image is stretched to, in pixels."""

    height: int
    width: int

    def to_canvas(self, boxes: NDArray[np.floating], scene_size: tuple[int, int]) -> NDArray[np.float32]:
        """Boxes (n, 4) of a scene of ``scene_size`` = (height, width) in the canvas frame, (n, 4) float32."""
        return (np.asarray(boxes, np.float64).reshape(-1, 4) * self._factors(scene_size)).astype(np.float32)

    def to_scene(self, boxes: NDArray[np.floating], scene_size: tuple[int, int]) -> NDArray[np.float32]:
        """Inverse of :meth:`to_canvas`: boxes (n, 4) of the canvas in the scene's frame, (n, 4) float32."""
        return (np.asarray(boxes, np.float64).reshape(-1, 4) / self._factors(scene_size)).astype(np.float32)

    def mirror(self, boxes: NDArray[np.floating]) -> NDArray[np.float32]:
        """Boxes (n, 4) in the canvas frame as they lie in the horizontally mirrored canvas."""
        x1, y1, x2, y2 = np.asarray(boxes, np.float32).reshape(-1, 4).T
        return np.stack([self.width - x2, y1, self.width - x1, y2], axis=1)

    def _factors(self, scene_size: tuple[int, int]) -> NDArray[np.float64]:
        height, width = scene_size
        x, y = self.width / width, self.height / height
        return np.array([x, y, x, y])


def check_sides(height: int, width: int, multiple: int = SIDE_MULTIPLE) -> None:
    """Raises ConfigError unless both sides of a canvas are positive multiples of ``multiple``."""
    for name, side in (("height", height), ("width", width)):
        if side < multiple or side % multiple:
            lower = max(multiple, side // multiple * multiple)
            raise ConfigError(
                f"canvas {name} {side}: must be a positive multiple of {multiple}; "
                f"nearest are {lower} and {lower + multiple}"
            )

"""The paper's pictures (Figures 2 and 5), from images, maps (h, w) and features (h, w, c) of the same scenes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffps.figures.pictures import crop, fit, heat, high_frequency, normalise, overlay, pca_rgb, resize
from diffps.figures.sheets import Image, Row, Sheet, Tile

Map = NDArray[np.floating]
LONGEST = 256  # pixels of a tile's longer side


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A scene as it is shown: its id and its image (h, w, 3) uint8."""

    scene_id: str
    image: Image

    def tile(self) -> Tile:
        """The scene alone."""
        return Tile(image=fit(self.image, LONGEST), caption="scene", alt=f"Scene {self.scene_id}")

    def under(self, values: Map, caption: str, alt: str) -> Tile:
        """A map (h, w) over the scene."""
        return Tile(image=overlay(fit(self.image, LONGEST), values), caption=caption, alt=alt)

    def beside(self, picture: Image, caption: str, alt: str) -> Tile:
        """A picture of a feature grid, stretched to the scene's shape with its cells visible."""
        height, width = fit(self.image, LONGEST).shape[:2]
        return Tile(image=resize(picture, width, height, smooth=False), caption=caption, alt=alt)


def attention_sheet(scenes: Sequence[Shown], maps: Mapping[str, Sequence[Map]]) -> Sheet:
    """Figure 2, above: where each word looks. ``maps[word]`` holds one map (h, w) per scene."""
    rows = []
    for index, scene in enumerate(scenes):
        looks = [
            scene.under(grids[index], word, f"Cross-attention of “{word}” over scene {scene.scene_id}")
            for word, grids in maps.items()
        ]
        rows.append(Row(label=scene.scene_id, tiles=(scene.tile(), *looks)))
    note = "Bright is where a word's token receives most attention; every map is scaled to its own range."
    return Sheet(title="Cross-attention per word", rows=tuple(rows), note=note)


def pca_sheet(scenes: Sequence[Shown], features: Mapping[str, Sequence[Map]]) -> Sheet:
    """Figure 2, below: three components of each tap as colours. ``features[name]``: one (h, w, c) per scene."""
    pictures = {name: pca_rgb(grids) for name, grids in features.items()}
    rows = []
    for index, scene in enumerate(scenes):
        tiles = [
            scene.beside(images[index], name, f"Principal components of {name} in scene {scene.scene_id}")
            for name, images in pictures.items()
        ]
        rows.append(Row(label=scene.scene_id, tiles=(scene.tile(), *tiles)))
    note = "Three principal components per tap and timestep, fitted over the scenes shown, as red, green and blue."
    return Sheet(title="Principal components of taps", rows=tuple(rows), note=note)


def frequency_sheet(scenes: Sequence[Shown], before: Sequence[Map], after: Sequence[Map]) -> Sheet:
    """Figure 5, left: features without and with frequency refinement, and the energy of their fine structure."""
    pictures = pca_rgb(before), pca_rgb(after)
    rows = []
    for index, scene in enumerate(scenes):
        tiles = [scene.tile()]
        for name, grids, images in (("before", before, pictures[0]), ("after", after, pictures[1])):
            energy, share = high_frequency(grids[index])
            picture = heat(np.sqrt(normalise(energy, 0, 99)))
            tiles.append(scene.beside(images[index], name, f"Feature {name} refinement in scene {scene.scene_id}"))
            tiles.append(
                scene.beside(
                    picture, f"fine part, {share:.0%}", f"Fine structure {name} refinement: {share:.0%} of energy"
                )
            )
        rows.append(Row(label=scene.scene_id, tiles=tuple(tiles)))
    note = (
        "The re-ID feature before and after MSFRN as principal components, each followed by its energy above half the "
        "Nyquist frequency (the percentage is its share of the feature's variance)."
    )
    return Sheet(title="Frequency refinement", rows=tuple(rows), note=note)


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A person in the semantics figure: its RoI's features ``before`` and ``after`` (h, w, c), ``weights`` (h, w)."""

    scene: Shown
    box: NDArray[np.floating]
    before: Map
    weights: Map
    after: Map


def semantics_sheet(persons: Sequence[Person]) -> Sheet:
    """Figure 5, right: crop, principal components before SFAN, the summed map, principal components after."""
    pictures = pca_rgb([person.before for person in persons] + [person.after for person in persons])
    rows: dict[str, list[Tile]] = {}
    for index, person in enumerate(persons):
        rows.setdefault(person.scene.scene_id, []).extend(
            (
                Tile(
                    image=crop(person.scene.image, person.box),
                    caption="person",
                    alt=f"Person {index + 1} in scene {person.scene.scene_id}",
                ),
                _roi(pictures[index], "before", "Components before SFAN"),
                _roi(
                    heat(normalise(person.weights)), _range(person.weights), "Where the words' similarities sum highest"
                ),
                _roi(pictures[index + len(persons)], "after", "Components after SFAN"),
            )
        )
    note = (
        "SFAN weighs each location of a person by its similarity to the words. The map is their weighted sum, shown "
        "from its lowest to its highest value."
    )
    sheet = tuple(Row(label=scene_id, tiles=tuple(tiles)) for scene_id, tiles in rows.items())
    return Sheet(title="Semantic weighting", rows=sheet, note=note, tall=True)


def _roi(picture: Image, caption: str, alt: str) -> Tile:
    """A RoI's grid in a person's shape."""
    return Tile(image=resize(picture, 96, 192, smooth=False), caption=caption, alt=alt)


def _range(values: Map) -> str:
    """The map's lowest and highest value, once where they are the same in print."""
    return "map " + "–".join(dict.fromkeys((f"{values.min():.3f}", f"{values.max():.3f}")))

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
    note = (
        "Three principal components per tap and timestep, fitted over the scenes shown, as red, green and blue: places "
        "of one colour are alike to the backbone. Level 3 is the finest grid, level 1 the coarsest."
    )
    return Sheet(title="Principal components of taps", rows=tuple(rows), note=note)


def frequency_sheet(scenes: Sequence[Shown], before: Sequence[Map], after: Sequence[Map]) -> Sheet:
    """Figure 5, left: features without and with frequency refinement, and the energy of their fine structure."""
    pictures = pca_rgb(before), pca_rgb(after)
    rows = []
    for index, scene in enumerate(scenes):
        tiles = [scene.tile()]
        for name, grids, images in (("before", before, pictures[0]), ("after", after, pictures[1])):
            energy, part = high_frequency(grids[index])
            share = f"{100 * part:.0f} %"
            picture = heat(np.sqrt(normalise(energy, 0, 99)))
            tiles.append(scene.beside(images[index], name, f"Feature {name} refinement in scene {scene.scene_id}"))
            tiles.append(
                scene.beside(picture, f"fine part, {share}", f"Fine structure {name} refinement: {share} of energy")
            )
        rows.append(Row(label=scene.scene_id, tiles=tuple(tiles)))
    note = (
        "The map that embeddings are cut from, before and after MSFRN, as principal components: like colours, like "
        "features. Beside each its fine structure, bright where it is strong; the percentage is its share of the "
        "feature's variance (above half the Nyquist frequency)."
    )
    return Sheet(title="Frequency refinement", rows=tuple(rows), note=note)


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A person in the semantics figure: its RoI's features ``before`` and ``after`` SFAN (h, w, c), ``similarities``
    (h, w) by word, in [0, 1] and summing to one over the words, and ``gate`` (h, w), what SFAN multiplies by."""

    scene: Shown
    box: NDArray[np.floating]
    before: Map
    similarities: Mapping[str, Map]
    gate: Map
    after: Map


def semantics_sheet(persons: Sequence[Person]) -> Sheet:
    """Figure 5, right: crop, principal components before SFAN, S per word, the gate, principal components after.

    Maps are drawn on fixed scales, the gate's from 0 to 2, and captioned with their ranges: what does not vary is one
    colour.
    """
    pictures = pca_rgb([person.before for person in persons] + [person.after for person in persons])
    rows = []
    for index, person in enumerate(persons):
        scene_id = person.scene.scene_id
        tiles = [
            Tile(image=crop(person.scene.image, person.box), caption="person", alt=f"A person in scene {scene_id}"),
            _roi(pictures[index], "before", "Components before SFAN"),
        ]
        for word, grid in person.similarities.items():
            tiles.append(_roi(heat(grid), _range(word, grid), f"Similarity to “{word}” among the words, from 0 to 1"))
        tiles.append(_roi(heat(person.gate / 2), _range("gate", person.gate), "Factor of each location, from 0 to 2"))
        tiles.append(_roi(pictures[index + len(persons)], "after", "Components after SFAN"))
        rows.append(Row(label=scene_id, tiles=tuple(tiles)))
    n = len(persons[0].similarities)
    note = (
        "S of each word at each location of a person, dark for 0 and bright for 1, and the gate that the location is "
        f"multiplied by, dark for 0 and bright for 2. S sums to one over the words, so Σ w S = 1/{n} + "
        f"Σ (w - 1/{n}) (S - 1/{n}): where the weights w or the similarities S are nearly equal, the gate is nearly "
        "the same everywhere."
    )
    return Sheet(title="Semantic weighting", rows=tuple(rows), note=note, tall=True)


def _roi(picture: Image, caption: str, alt: str) -> Tile:
    """A RoI's grid in a person's shape."""
    return Tile(image=resize(picture, 96, 192, smooth=False), caption=caption, alt=alt)


def _range(name: str, values: Map) -> str:
    """A name and the map's lowest and highest value, once where they are the same in print."""
    return f"{name} " + "–".join(dict.fromkeys((f"{values.min():.3f}", f"{values.max():.3f}")))

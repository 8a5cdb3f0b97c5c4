"""Which images are to be forgotten: by name, by who is on them, or by the folder they lie in."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffps.datasets.files import measure_image
from diffps.datasets.folder import images_of
from diffps.errors import ConfigError
from diffps.names import from_text, normal
from diffps.records import Annotations, Scene, Split
from stages.config_data import IndexConfig

SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """Images by what the store and the results know them by: ``names``, scene ids; ``paths`` below the dataset's
    folder; ``digests``; ``splits`` they are in. ``strange``: those of the names that stand for nothing in the index."""

    names: frozenset[str]
    paths: frozenset[str]
    digests: frozenset[str]
    splits: frozenset[Split]
    strange: frozenset[str] = frozenset()

    @classmethod
    def of(cls, scenes: Iterable[Scene], others: Iterable[str] = ()) -> "Chosen":
        """Indexed scenes, and names the index has not: those may be in either split."""
        scenes, others = list(scenes), frozenset(others)
        return cls(
            names=frozenset({scene.scene_id for scene in scenes} | others),
            paths=frozenset(scene.path for scene in scenes),
            digests=frozenset(scene.digest for scene in scenes),
            splits=frozenset(SPLITS if others else {scene.split for scene in scenes}),
            strange=others,
        )

    @property
    def words(self) -> frozenset[str]:
        """What a text that tells of them may hold."""
        return self.names | self.paths | self.digests

    def joined(self, other: "Chosen") -> "Chosen":
        """The images of both."""
        return Chosen(
            names=self.names | other.names,
            paths=self.paths | other.paths,
            digests=self.digests | other.digests,
            splits=self.splits | other.splits,
            strange=self.strange | other.strange,
        )

    def with_copies(self, scenes: Iterable[Scene]) -> "Chosen":
        """The same with all scenes of the same content, whatever their names and splits."""
        return self.joined(Chosen.of(scene for scene in scenes if scene.digest in self.digests))


def by_name(images: Sequence[str], scenes: Sequence[Scene], root: Path) -> Chosen:
    """Images by scene id, by path below the dataset's folder ``root``, or by any path to the file. One that the index
    has not is looked for by this name in the store, and by its content where it is a file."""
    known = {name: each for each in scenes for name in (*_places(root / from_text(each.path)), each.path)}
    known |= {from_text(name): scene for name, scene in known.items()}
    known |= {name: scene for scene in scenes for name in (scene.scene_id, from_text(scene.scene_id))}
    alike: dict[str, set[str]] = {}
    for name in known:
        alike.setdefault(normal(name), set()).add(name)

    def find(image: str) -> Scene | None:
        for name in (image, str(Path(image).resolve())):
            same = alike.get(normal(name), set())
            if name in known or len(same) == 1:
                return known[name if name in known else next(iter(same))]
        return None

    found = {image: find(image) for image in images}
    others = [image for image, scene in found.items() if scene is None]
    chosen = Chosen.of([scene for scene in found.values() if scene is not None], others)
    files = [image for image in others if Path(image).is_file()]
    digests = chosen.digests | {measure_image(Path(image)).digest for image in files}
    return replace(chosen, digests=digests, strange=chosen.strange - {*files})


def by_folder(folder: str, scenes: Sequence[Scene], root: Path) -> Chosen:
    """Everything below a folder of the dataset, links to pictures elsewhere included. Raises ConfigError where that is
    nothing."""
    below = {Path(place) for path in (Path(folder), root / folder) for place in _places(path)}
    found = [
        scene
        for scene in scenes
        if any(below & {*Path(place).parents} for place in _places(root / from_text(scene.path)))
    ]
    if not found:
        raise ConfigError(f"--folder {folder}: the index has no image below it")
    return Chosen.of(found)


def by_person(
    person: str, scenes: Sequence[Scene], annotations: Mapping[str, Annotations], config: IndexConfig, root: Path
) -> Chosen:
    """Every image on which somebody is annotated: ``test:137`` for a number of the index, else a name in the table of
    ``folder``. Raises ConfigError where nobody is called so."""
    split, colon, number = person.partition(":")
    if colon and split in SPLITS and number.isdecimal():
        found = [s for s in scenes if s.split == split and int(number) in annotations[s.scene_id].identities]
    elif config.dataset == "folder":
        images = images_of(root, person, [scene.scene_id for scene in scenes], config.identity)
        found = [scene for scene in scenes if scene.scene_id in images]
    else:
        raise ConfigError(f"--person {person}: the index numbers persons; give train:NUMBER or test:NUMBER")
    if not found:
        raise ConfigError(f"--person {person}: is on no image of the index")
    return Chosen.of(found)


def _places(path: Path) -> tuple[str, str]:
    """Where a file lies by its name, and behind all links."""
    return os.path.normpath(path.absolute()), str(path.resolve())

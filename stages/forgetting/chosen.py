"""Which images are to be forgotten: by name, by who is on them, or by the folder they lie in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffps.datasets.csv_table import read_table
from diffps.datasets.files import measure_image
from diffps.errors import ConfigError
from diffps.records import Annotations, Scene, Split
from stages.config_data import IndexConfig

SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """Images by what the store and the results know them by: ``names`` and ``digests``; ``splits`` they are in."""

    names: frozenset[str]
    digests: frozenset[str]
    splits: frozenset[Split]

    @classmethod
    def of(cls, scenes: Iterable[Scene], others: Iterable[str] = ()) -> "Chosen":
        """Indexed scenes, and names the index has not: those may be in either split."""
        scenes, others = list(scenes), frozenset(others)
        return cls(
            names=frozenset({name for scene in scenes for name in (scene.scene_id, scene.path)} | others),
            digests=frozenset(scene.digest for scene in scenes),
            splits=frozenset(SPLITS if others else {scene.split for scene in scenes}),
        )


def by_name(images: Sequence[str], scenes: Sequence[Scene], root: Path) -> Chosen:
    """Images by scene id, by path below the dataset's folder ``root``, or by any path to the file. One that the index
    has not is looked for by this name in the store, and by its content where it is a file."""
    known = {
        name: scene for scene in scenes for name in (scene.scene_id, scene.path, str((root / scene.path).resolve()))
    }
    found = {image: known.get(image) or known.get(str(Path(image).resolve())) for image in images}
    others = [image for image, scene in found.items() if scene is None]
    chosen = Chosen.of([scene for scene in found.values() if scene is not None], others)
    files = [Path(image) for image in others if Path(image).is_file()]
    return replace(chosen, digests=chosen.digests | {measure_image(path).digest for path in files})


def by_folder(folder: str, scenes: Sequence[Scene], root: Path) -> Chosen:
    """Everything below a folder of the dataset. Raises ConfigError where that is nothing."""
    below = [Path(folder).resolve(), (root / folder).resolve()]
    found = [scene for scene in scenes if {*below} & {*(root / scene.path).resolve().parents}]
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
        rows = [row for _, row in read_table(root / "persons.csv", config.identity).rows if row["person"] == person]
        images = {Path(row["image"].replace("\\", "/")).name for row in rows}
        found = [scene for scene in scenes if Path(scene.path).name in images]
    else:
        raise ConfigError(f"--person {person}: the index numbers persons; give train:NUMBER or test:NUMBER")
    if not found:
        raise ConfigError(f"--person {person}: is on no image of the index")
    return Chosen.of(found)

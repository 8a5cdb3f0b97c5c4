"""Who is searched for, and where: the test split, and the galleries that queries are ranked in."""

from dataclasses import dataclass
from pathlib import Path

from diffps.datasets.tables import gallery_names, read_annotations, read_gallery, read_queries, read_scenes
from diffps.errors import ConfigError
from diffps.metrics.galleries import GALLERY_RULES, SearchTask, listed_task, rule_task
from diffps.records import Annotations, Convention, Query, Scene


@dataclass(frozen=True, slots=True)
class SearchSet:
    """The test split: ``numbers`` gives a scene's place in ``scenes``, ``queries_in`` the queries of a scene."""

    scenes: tuple[Scene, ...]
    annotations: dict[str, Annotations]
    queries: tuple[Query, ...]
    numbers: dict[str, int]
    queries_in: dict[str, list[int]]


def read_search_set(index: Path) -> SearchSet:
    """The test split of the index in ``index``. Raises ConfigError when there is nothing to search for."""
    scenes, queries = read_scenes(index, "test"), read_queries(index)
    if not scenes or not queries:
        raise ConfigError(
            f"evaluate: {index} has {len(scenes)} test scenes and {len(queries)} queries; both are needed"
        )
    queries_in: dict[str, list[int]] = {}
    for row, query in enumerate(queries):
        queries_in.setdefault(query.scene_id, []).append(row)
    return SearchSet(
        scenes=tuple(scenes),
        annotations=read_annotations(index),
        queries=tuple(queries),
        numbers={scene.scene_id: number for number, scene in enumerate(scenes)},
        queries_in=queries_in,
    )


def open_task(gallery: str | int, convention: Convention, test: SearchSet, index: Path) -> SearchTask:
    """The evaluation in a gallery: one of the rules', or one that the index lists. Raises ConfigError naming those
    there are."""
    name = str(gallery)
    listed = gallery_names(index)
    if name in listed:
        rows = read_gallery(index, name)
        return listed_task(test.scenes, test.annotations, test.queries, rows, read_scenes(index), convention)
    for rule in GALLERY_RULES:
        if name == rule:
            return rule_task(test.scenes, test.annotations, test.queries, rule, convention)
    known = ", ".join([*GALLERY_RULES, *listed])
    raise ConfigError(f"evaluate.gallery {name}: this dataset has {known}")

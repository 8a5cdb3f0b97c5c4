"""The index without some of its images."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffps.datasets.tables import gallery_names, read_annotations, read_gallery, read_queries, read_scenes
from diffps.records import Gallery, SearchIndex


def without(folder: Path, report: dict[str, Any], names: Collection[str], digests: Collection[str]) -> SearchIndex:
    """The index in ``folder`` without scenes called one of ``names`` or of one of ``digests``; its counts stay those
    that `diffps index` read, and ``forgotten`` says how many are gone."""
    scenes, annotations, queries = read_scenes(folder), read_annotations(folder), read_queries(folder)
    kept = [row for row, each in enumerate(scenes) if each.scene_id not in names and each.digest not in digests]
    rows = {old: new for new, old in enumerate(kept)}
    ids = {scenes[row].scene_id for row in kept}
    asked = tuple(query for query in queries if query.scene_id in ids)
    gone = {query.query_id for query in queries} - {query.query_id for query in asked}
    galleries = [read_gallery(folder, name) for name in gallery_names(folder)]
    forgotten = int(report.get("forgotten", 0)) + len(scenes) - len(kept)
    return SearchIndex(
        scenes=tuple(scenes[row] for row in kept),
        annotations={name: annotations[name] for name in annotations if name in ids},
        queries=asked,
        galleries=tuple(_gallery(gallery, rows, gone) for gallery in galleries),
        report={**scrub(report, {*names, *digests}), "forgotten": forgotten},
    )


def scrub(value: Any, words: Collection[str]) -> Any:
    """A JSON value without the texts that hold one of ``words``."""
    if isinstance(value, str):
        return "" if mentions(value, words) else value
    if isinstance(value, dict):
        return {key: scrub(each, words) for key, each in value.items() if not mentions(key, words)}
    if isinstance(value, list | tuple):
        return [scrub(each, words) for each in value if not (isinstance(each, str) and mentions(each, words))]
    return value


def mentions(text: str, words: Collection[str]) -> bool:
    """True where a text holds one of ``words``."""
    return any(word in text for word in words if word)


def _gallery(gallery: Gallery, rows: dict[int, int], gone: set[str]) -> Gallery:
    places = [place for place, query in enumerate(gallery.query_ids) if query not in gone]
    there = [[row in rows for row in gallery.positive_scenes[place]] for place in places]
    return replace(
        gallery,
        query_ids=tuple(gallery.query_ids[place] for place in places),
        scenes=tuple(_renumbered(gallery.scenes[place], rows) for place in places),
        positive_scenes=tuple(_renumbered(gallery.positive_scenes[place], rows) for place in places),
        positive_boxes=tuple(
            gallery.positive_boxes[place][np.array(kept, bool)] for place, kept in zip(places, there, strict=True)
        ),
    )


def _renumbered(scenes: Any, rows: dict[int, int]) -> Any:
    return np.array([rows[int(row)] for row in scenes if int(row) in rows], np.int32)

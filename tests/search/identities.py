"""Made-up people: embeddings of clothes that resemble each other's, seen in scenes of four, not all known or found."""

import numpy as np

from diffps.records import UNLABELLED
from diffps.search.openset import HeldOut

DIMENSIONS, LOOKS, PER_SCENE = 32, 8, 4


def made_up(
    seed: int, people: int, scenes: int, *, noise: float = 0.5, unknown: float = 0.15, missed: float = 0.05
) -> HeldOut:
    """Each of ``people`` is seen about as often as every other; two queries of each, from different scenes."""
    rng = np.random.default_rng(seed)
    looks = np.random.default_rng(0).standard_normal((LOOKS, DIMENSIONS)) / np.sqrt(LOOKS)
    places = scenes * PER_SCENE
    who = np.concatenate([rng.permutation(people) for _ in range(-(-places // people))])[:places]
    centres = rng.standard_normal((people, LOOKS)) @ looks
    nobody = rng.random(places) < unknown
    bodies = centres[who]
    bodies[nobody] = rng.standard_normal((int(nobody.sum()), LOOKS)) @ looks
    embeddings = bodies + noise * rng.standard_normal((places, DIMENSIONS))
    identities = np.where(nobody, UNLABELLED, who)
    in_scene = np.repeat(np.arange(scenes), PER_SCENE)
    found, known = rng.random(places) >= missed, ~nobody
    queries: list[int] = []
    for person in range(people):
        own = np.flatnonzero(identities == person)
        _, first = np.unique(in_scene[own], return_index=True)
        queries += rng.permutation(own[first])[:2].tolist()
    return HeldOut(
        embeddings=embeddings[found],
        scenes=in_scene[found],
        identities=identities[found],
        seen_identities=identities[known],
        seen_scenes=in_scene[known],
        queries=embeddings[queries],
        query_identities=identities[queries],
        query_scenes=in_scene[queries][:, None],
        scene_count=scenes,
    )


def largest_similarity(held_out: HeldOut, boxes: int, seed: int, queries: np.ndarray) -> np.ndarray:
    """Of each query, the plain way: draw whole scenes without its person until there are so many boxes, search them."""
    rng = np.random.default_rng(seed)
    unit = held_out.embeddings / np.linalg.norm(held_out.embeddings, axis=1, keepdims=True)
    drawn = round(boxes * held_out.scene_count / len(unit))
    result = np.empty(len(queries))
    for row, q in enumerate(queries):
        own = held_out.seen_scenes[held_out.seen_identities == held_out.query_identities[q]]
        free = np.setdiff1d(np.arange(held_out.scene_count), np.union1d(own, held_out.query_scenes[q]))
        inside = np.isin(held_out.scenes, rng.choice(free, min(drawn, len(free)), replace=False))
        query = held_out.queries[q] / np.linalg.norm(held_out.queries[q])
        result[row] = (unit[inside] @ query).max(initial=-1)
    return result

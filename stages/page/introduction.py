"""The page's beginning: what person search is, in one sentence and one picture, and what was searched."""

from statistics import median

from diffps.figures.sheets import Tile
from stages.page.content import Example
from stages.page.evidence import Evidence, Json
from stages.page.searches import query_find, result_find
from stages.text import count

TASK = (
    "Person search: given one picture of a person, find the same person in whole scenes, where everyone has to be "
    "detected first and then told from all others."
)
TYPICAL = 10  # queries nearest to the median that the picture is taken from
SCENE_PIXELS = 720  # longest side of the scene in the first picture
DATA = {
    "streets": "drawn streets",
    "prw": "PRW",
    "cuhk-sysu": "CUHK-SYSU",
    "movienet": "MovieNet",
    "posetrack": "PoseTrack",
    "folder": "photographs of one’s own",
    "coco": "photographs with COCO annotations",
}


def title(evidence: Evidence) -> str:
    """The page's heading: that of the parameters, or the data's name. Drawn streets are always said to be drawn."""
    given, data = evidence.params.report.title, data_name(evidence)
    if not given:
        return f"Person search on {data}"
    return given if not is_drawn(evidence) or data in given else f"{given}, on {data}"


def data_name(evidence: Evidence) -> str:
    """What the index was read from, in words."""
    dataset = dataset_of(evidence)
    return DATA.get(dataset, dataset)


def dataset_of(evidence: Evidence) -> str:
    """``index.dataset`` as the index was read; the parameters' where it does not say."""
    return str(evidence.index_report.get("dataset", evidence.params.index.dataset))


def is_drawn(evidence: Evidence) -> bool:
    """True where scenes are drawn: scores on them say nothing about photographs."""
    return dataset_of(evidence) == "streets"


def example(evidence: Evidence) -> Example | None:
    """A query near the median whose first answer is right, and the whole scene of that answer; None without one."""
    row = _typical(evidence)
    if row is None:
        return None
    name = row["query_id"]
    query, found = query_find(evidence, name), result_find(evidence, row)
    persons = len(evidence.found_in(row["scene_id"]))
    shown = found.scene(f"{count(persons, 'person')} found; the one marked is the person looked for.", SCENE_PIXELS)
    others = count(persons - 1, "other person") if persons > 1 else "nobody else"
    return Example(
        query=query.tile("Who is looked for", f"Query {name}"),
        scene=Tile(
            image=shown.image,
            outlines=shown.outlines,
            alt=shown.alt,
            caption="Where the head says this person is",
        ),
        note=(
            "Left: the person looked for, as the query shows them. Right: a whole scene of another moment. The "
            f"trained head found {others} there, in thin lines, and ranked the one in thick lines first of all boxes "
            "of all scenes; that is right."
        ),
    )


def _typical(evidence: Evidence) -> Json | None:
    """The first result, and right, with most people around, of the queries nearest to the median; None where no first
    result is right."""
    middle = median(evidence.precisions.values()) if evidence.precisions else 0.0
    first = [rows[0] for name, rows in evidence.ranking.items() if name in evidence.precisions]
    right = [row for row in first if row["correct"] and row["query_id"] in evidence.queries]
    right = [row for row in right if evidence.is_readable(row["scene_id"])] or right
    right.sort(key=lambda row: (abs(evidence.precisions[row["query_id"]] - middle), row["query_id"]))
    return max(right[:TYPICAL], key=lambda row: len(evidence.found_in(row["scene_id"])), default=None)

"""An answer as a file for other programs: CSV, JSON, Parquet, or COCO's results with similarities as scores."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

from cache.files import write_bytes
from diffps.errors import ConfigError
from diffps.search.answer import Answer

COLUMNS = ("rank", "image", "x", "y", "width", "height", "similarity", "score", "same_person", "fpir")
KINDS = (".csv", ".json", ".parquet", ".coco.json")


def check_output(path: Path) -> None:
    """Raises ConfigError where :func:`write_answer` would not know what to write."""
    if not path.name.endswith(KINDS):
        raise ConfigError(f"{path}: no kind of output; its name ends with {', '.join(KINDS[:-1])} or {KINDS[-1]}")


def write_answer(path: Path, answer: Answer, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Write the hits, whole or not at all, as what the name of ``path`` says; ``sizes`` gives (height, width) of their
    images. Raises ConfigError for another name."""
    check_output(path)
    rows: list[dict[str, object]] = []
    for rank, hit in enumerate(answer.hits, 1):
        values = (rank, hit.image, *hit.box, hit.similarity, hit.score, hit.same_person, hit.fpir)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    if path.name.endswith(".coco.json"):
        content = json.dumps(_coco(answer, sizes)).encode()
    elif path.suffix == ".json":
        content = (json.dumps(answer.to_json(), indent=1) + "\n").encode()
    elif path.suffix == ".parquet":
        content = _parquet(rows)
    else:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
    write_bytes(path, content)


def _parquet(rows: list[dict[str, object]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"rank": pa.int32(), "image": pa.string(), "same_person": pa.bool_()}
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in COLUMNS])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), buffer)
    return buffer.getvalue()


def _coco(answer: Answer, sizes: Mapping[str, tuple[int, int]]) -> dict[str, object]:
    names = list(dict.fromkeys(hit.image for hit in answer.hits))
    numbers = {name: number for number, name in enumerate(names, 1)}
    return {
        "images": [
            {"id": numbers[name], "file_name": name, "height": sizes[name][0], "width": sizes[name][1]}
            for name in names
        ],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {
                "id": rank,
                "image_id": numbers[hit.image],
                "category_id": 1,
                "bbox": list(hit.box),
                "area": hit.box[2] * hit.box[3],
                "iscrowd": 0,
                "score": hit.similarity,
                "detection_score": hit.score,
                "same_person": hit.same_person,
                "fpir": hit.fpir,
            }
            for rank, hit in enumerate(answer.hits, 1)
        ],
    }

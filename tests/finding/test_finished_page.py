"""What the page is told of an answer, and a finished search as a file: read from their text, without a browser."""

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffps.search.answer import Answer, Hit
from stages.finding.photos import Photo
from stages.finding.web.page import SAVED_SIDE, finished_search, render_page
from stages.finding.web.service import DrawnBox, jpeg, shown_answer, shown_image
from tests.finding.fake import FakeService
from tests.world import ROOT

WEB = ROOT / "stages" / "finding" / "web"


def hit(row: int, fpir: float | None, same: bool | None = True) -> Hit:
    return Hit(image="x", box=(0, 0, 1, 1), similarity=0.5 + row / 100, score=0.9, same_person=same, fpir=fpir, row=row)


def answer(*hits: Hit) -> Answer:
    return Answer(
        hits=hits,
        boxes=7,
        images=3,
        pictures=1,
        promise=0.01,
        threshold=0.75,
        own=(4,),
        verdict="Found.",
        notes=("Note.",),
    )


def state(page: str) -> Any:
    """What lies in the page between its markup."""
    (text,) = re.findall(r"<script[^>]*application/json[^>]*>(.*?)</script>", page, re.S)
    return json.loads(text)


def picture_in(source: str) -> Image.Image:
    kind, _, content = source.partition(";base64,")
    assert kind == "data:image/jpeg"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_an_answer_is_shown_with_its_words_its_hits_and_their_images() -> None:
    service = FakeService(images=4)
    rows = [int(np.flatnonzero(service.gallery.images == image)[0]) for image in (2, 0)]
    shown = shown_answer(service, answer(hit(rows[0], 0.01), hit(rows[1], None, None)))
    assert {name: shown[name] for name in shown if name not in ("hits", "images")} == {
        "verdict": "Found.",
        "notes": ["Note."],
        "threshold": 0.75,
        "promise": "one in 100",
        "boxes": 7,
        "own": [4],
    }
    first, second = shown["hits"]
    assert first == {
        "row": rows[0],
        "image": 2,
        "similarity": 0.5 + rows[0] / 100,
        "same": True,
        "strangers": "one in 100 strangers",
        "many": False,
    }
    assert second == {"row": rows[1], "image": 0, "similarity": 0.5, "same": None}
    assert shown["images"] == {0: shown_image(service, 0), 2: shown_image(service, 2)}
    assert list(shown["images"]) == [0, 2]
    height, width = service.sizes[2]
    assert shown["images"][2] | {"boxes": []} == {
        "number": 2,
        "name": "street/002.jpg",
        "width": width,
        "height": height,
        "boxes": [],
    }


@pytest.mark.parametrize(
    ("share", "words", "many"),
    [
        (0.5, "one in 2 strangers", False),
        (0.51, "51% of strangers", True),
        (0.99, "99% of strangers", True),
        (0.995, "nearly every stranger", False),
    ],
)
def test_strangers_are_counted_in_words(share: float, words: str, many: bool) -> None:
    (found,) = shown_answer(FakeService(images=1), answer(hit(0, share)))["hits"]
    assert (found["strangers"], found["many"]) == (words, many)


def test_boxes_are_told_in_tenths_of_a_pixel() -> None:
    service = FakeService(images=1)
    service.gallery = replace(service.gallery, boxes=service.gallery.boxes + np.float32(0.26))
    x1, y1, x2, y2 = service.gallery.boxes[0].astype(float)
    box = shown_image(service, 0)["boxes"][0]["box"]
    assert box == pytest.approx([round(x1, 1), round(y1, 1), x2 - x1, y2 - y1], abs=1e-4)


def test_pictures_are_shrunk_to_the_longer_side_and_never_grown() -> None:
    grey = np.full((30, 50, 3), 99, np.uint8)
    for side, size in ((50, (50, 30)), (500, (50, 30)), (25, (25, 15))):
        assert Image.open(io.BytesIO(jpeg(grey, side))).size == size
        assert Image.open(io.BytesIO(jpeg(grey.transpose(1, 0, 2), side))).size == size[::-1]
    fine = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(fine).save(buffer, "jpeg", quality=85)
    assert jpeg(fine, 64) == buffer.getvalue()


def test_a_finished_search_has_its_pictures_inside_and_needs_nobody() -> None:
    service = FakeService(images=6)
    photo = Photo("me.jpg", np.full((1200, 2400, 3), 90, np.uint8), "")
    asked = [4, DrawnBox(photo, np.float32([10.26, 20, 110.26, 220.5]))]
    found = service.find(asked, 3)
    text = finished_search(service, asked, found)
    content = state(text)
    row, drawn = content["query"]
    image = int(service.gallery.images[4])
    assert row == {"row": 4, "image": image}
    assert {name: value for name, value in drawn.items() if name not in ("source", "box")} == {
        "picture": "query-1",
        "width": 2400,
        "height": 1200,
    }
    assert drawn["box"] == pytest.approx([10.3, 20, 100, 200.5])
    assert picture_in(drawn["source"]).size == (SAVED_SIDE, SAVED_SIDE // 2) == (900, 450)
    images = content["answer"]["images"]
    assert set(images) == {str(image), *(str(service.gallery.images[each.row]) for each in found.hits)}
    for number, each in images.items():
        assert picture_in(each["source"]).size == (each["width"], each["height"])
        assert each["number"] == int(number)
    assert "connect-src" not in text
    assert "img-src data:;" in text


def test_markup_in_what_is_told_ends_no_script_and_only_a_served_page_asks() -> None:
    saved = {"query": [], "answer": {"verdict": "</script><b>"}}
    page = render_page(saved)
    assert "</script><b>" not in page.text
    assert state(page.text) == saved
    assert page.policy.endswith("base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    served = render_page(None)
    assert state(served.text) is None
    assert "img-src 'self' data:; connect-src 'self';" in served.policy
    live = Path(WEB, "search.live.js").read_text(encoding="utf-8")
    assert (live in served.text, live in page.text) == (True, False)
    assert served.policy.removesuffix("; frame-ancestors 'none'") in served.text

"""The page as text: one file that loads nothing but pictures, and those only from where it came."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from diffps.search.answer import Answer
from stages.finding.web.service import Asked, SearchService, jpeg, shown_answer, shown_image

SAVED_SIDE = 900  # of a picture in a finished search


class RenderedPage(NamedTuple):
    """``text`` in HTML; ``policy``, what the browser may load and run because of it."""

    text: str
    policy: str


def render_page(saved: Mapping[str, Any] | None) -> RenderedPage:
    """The page; ``saved`` is a finished search, None that of a server to ask."""
    folder = files("stages.finding.web")
    template, style, script, live = (
        (folder / f"search.{name}").read_text("utf-8") for name in ("html", "css", "js", "live.js")
    )
    script += "" if saved else live
    sources = "img-src data:" if saved else "img-src 'self' data:; connect-src 'self'"
    policy = (
        f"default-src 'none'; {sources}; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # Within a script element nothing is escaped, so nothing may look like its end.
    state = json.dumps(saved).replace("<", "\\u003c")
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "STATE": state}
    text = template
    for name in ("POLICY", "STYLE", "SCRIPT", "STATE"):
        text = text.replace(f"@{name}@", parts[name], 1)
    # What keeps others from framing a page only counts in the header.
    return RenderedPage(text, f"{policy}; frame-ancestors 'none'")


def finished_search(service: SearchService, asked: Sequence[Asked], answer: Answer) -> str:
    """A search as one HTML file that needs no server and asks nothing of the network: its pictures are inside."""
    shown = shown_answer(service, answer)
    query: list[dict[str, Any]] = []
    for number, part in enumerate(asked):
        if isinstance(part, int):
            image = int(service.gallery.images[part])
            shown["images"].setdefault(image, shown_image(service, image))
            query.append({"row": part, "image": image})
        else:
            height, width = part.photo.size
            x1, y1, x2, y2 = part.box.astype(float).round(1).tolist()
            box = [x1, y1, x2 - x1, y2 - y1]
            source = _data_uri(jpeg(part.photo.pixels, SAVED_SIDE))
            query.append({"picture": f"query-{number}", "width": width, "height": height, "box": box, "source": source})
    for number, image in shown["images"].items():
        image["source"] = _data_uri(jpeg(service.picture(number), SAVED_SIDE))
    return render_page({"query": query, "answer": shown}).text


def _data_uri(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

"""The page's server: this machine alone, one random address, nothing that it is sent is written anywhere.

Whoever does not know the token in the address, comes under another name of this machine (a page elsewhere that had its
own name lead here), or from another page, is told nothing. Pictures of the gallery go by number, never by path.
"""

import contextlib
import json
import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np

from cache.errors import CacheError
from diffps.errors import DiffPSError
from stages.finding.photos import Photo
from stages.finding.web.guard import place_asked
from stages.finding.web.page import render_page
from stages.finding.web.pictures import SentPictures, drawn_box
from stages.finding.web.service import Asked, SearchService, jpeg, shown_answer, shown_image

log = logging.getLogger("diffps")

PICTURE_BYTES, REQUEST_BYTES = 32 << 20, 1 << 16
SIDES = (640, 1600)  # of pictures, at most
PAGE, TOP, PARTS = 60, 200, 20  # images listed, hits and pictures of the person, at most
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class RefusedError(Exception):
    """A request that is not answered, with its status and what the page may say."""

    def __init__(self, status: HTTPStatus, text: str = "") -> None:
        super().__init__(text or status.phrase)
        self.status = status


class SearchServer(ThreadingHTTPServer):
    """Serves ``service`` on a free port of the loopback; ``address`` is what to open in a browser."""

    request_queue_size = 128  # a page asks for sixty pictures at a time; whoever finds no place waits a second

    def __init__(self, service: SearchService, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.service = service
        self.token = secrets.token_urlsafe(24)
        self.names = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}
        self.address = f"http://127.0.0.1:{self.server_port}/{self.token}/"
        self.pictures = SentPictures()
        self.busy = threading.Lock()
        self.thumbnail: Callable[[int, int], bytes] = lru_cache(512)(
            lambda number, side: jpeg(service.picture(number), side)
        )


class Reply(NamedTuple):
    """What goes back. ``policy``: what the browser may load because of it."""

    kind: str
    body: bytes
    policy: str = "default-src 'none'"


class _Handler(BaseHTTPRequestHandler):
    server: SearchServer
    server_version, sys_version = "diffps", ""
    timeout = 60

    def do_GET(self) -> None:
        self._answer({"": self._page, "images": self._images, "image": self._image, "picture": self._picture})

    def do_POST(self) -> None:
        self._answer({"pictures": self._take_picture, "search": self._search})

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: addresses hold the token."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Also for what the library refuses by itself; nothing of the request is repeated."""
        self._send(code, Reply("text/plain; charset=utf-8", (explain or HTTPStatus(code).phrase).encode()))

    def _answer(self, routes: dict[str, Callable[[str], Reply]]) -> None:
        try:
            asked = place_asked(self.command, self.path, self.headers, self.server.names, self.server.token)
            place, _, rest = (asked or "").partition("/")
            if asked is None or place not in routes:
                raise RefusedError(HTTPStatus.NOT_FOUND)
            reply = routes[place](rest)
        except RefusedError as error:
            self.send_error(error.status, explain=str(error))
        except (DiffPSError, CacheError) as error:
            self.send_error(HTTPStatus.UNPROCESSABLE_ENTITY, explain=str(error))
        except OSError:
            self.close_connection = True  # whoever asked has gone
        except Exception:
            log.exception("the search page could not answer")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self._send(HTTPStatus.OK, reply)

    def _send(self, status: int, reply: Reply) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            own = {"Content-Type": reply.kind, "Content-Length": str(len(reply.body))}
            for name, value in (HEADERS | own | {"Content-Security-Policy": reply.policy}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

    def _page(self, rest: str) -> Reply:
        page = render_page(None)
        return Reply("text/html; charset=utf-8", page.text.encode(), page.policy)

    def _images(self, rest: str) -> Reply:
        asked = parse_qs(urlsplit(self.path).query)
        text, first = asked.get("text", [""])[0].casefold(), _whole(asked.get("from", ["0"])[0], 1 << 31)
        service = self.server.service
        names = service.gallery.names
        found = [number for number, name in enumerate(names) if text in name.casefold()]
        shown = [shown_image(service, number) for number in found[first : first + PAGE]]
        return _json({"total": len(found), "images": shown})

    def _image(self, rest: str) -> Reply:
        number = _whole(rest, len(self.server.service.gallery.names))
        side = _whole(parse_qs(urlsplit(self.path).query).get("side", [str(SIDES[0])])[0], SIDES[-1] + 1)
        return Reply("image/jpeg", self.server.thumbnail(number, min(s for s in SIDES if s >= side)))

    def _picture(self, rest: str) -> Reply:
        return Reply("image/jpeg", jpeg(self.server.pictures.get(rest).pixels, SIDES[-1]))

    def _take_picture(self, rest: str) -> Reply:
        name, photo = self.server.pictures.take(self._body(PICTURE_BYTES))
        with self.server.busy:
            found = self.server.service.detect(photo)
        boxes = np.concatenate([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], axis=1)
        size = {"width": photo.size[1], "height": photo.size[0]}
        return _json({"picture": name, **size, "boxes": boxes.astype(float).round(1).tolist()})

    def _search(self, rest: str) -> Reply:
        try:
            wanted = json.loads(self._body(REQUEST_BYTES))
            parts = wanted["parts"]
            top = _whole(str(wanted.get("top", 20)), TOP + 1)
            if not isinstance(parts, list) or not 0 < len(parts) <= PARTS:
                raise RefusedError(HTTPStatus.BAD_REQUEST, f"Between 1 and {PARTS} pictures of the person are taken.")
            if any(part in parts[:number] for number, part in enumerate(parts)):
                raise RefusedError(HTTPStatus.BAD_REQUEST, "A picture of the person counts once.")
            sent = {part["picture"]: self.server.pictures.get(part["picture"]) for part in parts if "row" not in part}
            asked = [self._asked(part, sent) for part in parts]
        except DiffPSError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST) from error
        with self.server.busy:
            answer = self.server.service.find(asked, top)
        return _json(shown_answer(self.server.service, answer))

    def _asked(self, part: dict[str, Any], sent: Mapping[str, Photo]) -> Asked:
        """A row of the gallery, or a box in a picture that was sent: x, y, width, height, cut at its edges."""
        if "row" in part:
            return _whole(str(part["row"]), len(self.server.service.gallery))
        return drawn_box(sent[part["picture"]], [float(value) for value in part["box"]])

    def _body(self, most: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED)
        if len(length) > 12 or int(length) > most:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"At most {most / (1 << 20):.3g} MB are taken.")
        return self.rfile.read(int(length))


def _whole(text: str, end: int) -> int:
    """A number from 0 to ``end`` - 1. Raises RefusedError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < end):
        raise RefusedError(HTTPStatus.NOT_FOUND)
    return int(text)


def _json(value: dict[str, Any]) -> Reply:
    return Reply("application/json", json.dumps(value).encode())

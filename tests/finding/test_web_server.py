"""The page's server, asked by its page, by strangers and by those who mean it harm."""

import contextlib
import http.client
import io
import json
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.finding.web.pictures import KEPT
from stages.finding.web.server import PICTURE_BYTES, REQUEST_BYTES, SearchServer
from stages.finding.web.service import DrawnBox
from tests.finding.fake import FakeService


@pytest.fixture(scope="module")
def server() -> Iterator[SearchServer]:
    with SearchServer(FakeService(images=70)) as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield started
        started.shutdown()


class Reply:
    def __init__(self, reply: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = reply.status, reply.headers, reply.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    server: SearchServer, method: str, path: str, body: bytes | None = None, token: str | None = None, **headers: str
) -> Reply:
    """As the page asks, unless ``headers`` say otherwise (an empty one is left out)."""
    host = f"127.0.0.1:{server.server_port}"
    origin = {"Origin": f"http://{host}"} if method == "POST" else {}
    sent = {"Host": host, **origin, **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest(method, f"/{server.token if token is None else token}/{path}", skip_host=True)
    if body is not None and "Content-Length" not in sent:
        sent["Content-Length"] = str(len(body))
    for name, value in sent.items():
        if value:
            connection.putheader(name, value)
    connection.endheaders()
    if body is not None:
        connection.send(body)
    reply = Reply(connection.getresponse())
    connection.close()
    return reply


def png(width: int = 90, height: int = 60, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "png", **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def search(server: SearchServer, *parts: object, **more: object) -> Reply:
    return ask(server, "POST", "search", json.dumps({"parts": parts, **more}).encode())


def test_the_page_may_load_nothing_from_elsewhere(server: SearchServer) -> None:
    reply = ask(server, "GET", "")
    assert reply.status == 200
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert reply.headers["Referrer-Policy"] == "no-referrer"  # the address holds the token
    assert reply.headers["Cache-Control"] == "no-store"
    assert b"http" not in reply.body.replace(b"http-equiv", b"")


def test_pictures_are_listed_with_their_people(server: SearchServer) -> None:
    first = ask(server, "GET", "images").json
    assert (first["total"], len(first["images"])) == (70, 60)
    rest = ask(server, "GET", "images?from=60").json
    assert [image["number"] for image in rest["images"]] == list(range(60, 70))
    named = ask(server, "GET", "images?text=STREET/01").json
    assert [image["name"] for image in named["images"]] == [f"street/{number:03}.jpg" for number in range(10, 20)]
    service = server.service
    shown = first["images"][3]
    rows = service.gallery.rows_of("street/003.jpg")
    assert [box["row"] for box in shown["boxes"]] == rows.tolist()
    x1, y1, x2, y2 = service.gallery.boxes[rows[0]]
    assert shown["boxes"][0]["box"] == [x1, y1, x2 - x1, y2 - y1]


def test_pictures_are_sent_without_anything_but_pixels(server: SearchServer) -> None:
    reply = ask(server, "GET", "image/1?side=640")
    with Image.open(io.BytesIO(reply.body)) as image:
        assert image.size == (480, 360)
        assert not image.getexif()
    assert reply.headers["Content-Type"] == "image/jpeg"
    assert ask(server, "GET", "image/1?side=99999").status == 404


@pytest.mark.parametrize(("side", "size"), [(1, 640), (640, 640), (641, 1600), (1600, 1600)])
def test_pictures_come_in_the_next_larger_of_two_sides(side: int, size: int) -> None:
    service = FakeService(images=1)
    service.pictures[0] = np.zeros((800, 2000, 3), np.uint8)
    with SearchServer(service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reply = ask(server, "GET", f"image/0?side={side}")
        with Image.open(io.BytesIO(reply.body)) as image:
            assert image.size == (size, size * 2 // 5)
        assert ask(server, "GET", "image/0?side=1601").status == 404
        server.shutdown()


def test_as_many_answers_and_pictures_are_taken_as_the_page_has_room_for(server: SearchServer) -> None:
    rows = [{"row": row} for row in range(21)]
    assert len(search(server, *rows[:20], top=200).json["own"]) == 20
    assert len(search(server, rows[0], top=0).json["hits"]) == 0
    assert len(search(server, rows[0]).json["hits"]) == 20
    assert search(server, rows[0], top=201).status == 404
    for parts in (rows, []):
        reply = search(server, *parts)
        assert (reply.status, reply.body) == (400, b"Between 1 and 20 pictures of the person are taken.")
    twice = search(server, rows[1], rows[2], rows[1])
    assert (twice.status, twice.body) == (400, b"A picture of the person counts once.")
    count = len(server.service.gallery)
    assert search(server, {"row": count - 1}).status == 200
    assert search(server, {"row": count}).status == 404


def test_a_body_of_the_largest_size_is_read(server: SearchServer) -> None:
    body = json.dumps({"parts": [{"row": 1}]}).encode()
    assert ask(server, "POST", "search", body.ljust(REQUEST_BYTES)).status == 200
    too_large = ask(server, "POST", "search", None, Content_Length=str(REQUEST_BYTES + 1))
    assert (too_large.status, too_large.body) == (413, b"At most 0.0625 MB are taken.")
    assert (
        ask(server, "POST", "pictures", None, Content_Length=str(PICTURE_BYTES + 1)).body == b"At most 32 MB are taken."
    )


@pytest.mark.parametrize(
    ("box", "expected"),
    [((0, 0, 4, 4), [0, 0, 4, 4]), ((-3, -3, 7, 7), [0, 0, 4, 4]), ((86, 56, 50, 50), [86, 56, 90, 60])],
)
def test_a_box_is_cut_at_the_edges_and_has_four_pixels_a_side(
    server: SearchServer, box: tuple[int, ...], expected: list[int]
) -> None:
    name = ask(server, "POST", "pictures", png()).json["picture"]
    assert search(server, {"picture": name, "box": box}).status == 200
    assert server.service.asked[-1][0].box.tolist() == expected  # type: ignore[attr-defined]
    x, y, width, height = box
    for smaller in ((x, y, width - 47 if x == 86 else width - 1, height), (x, y, width, 3 if y >= 0 else height - 1)):
        reply = search(server, {"picture": name, "box": smaller})
        assert (reply.status, reply.body) == (422, b"The box lies outside the picture, or is too small.")


def test_a_fault_of_the_server_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    service = FakeService(images=2)

    def fail(asked: object, top: int) -> None:
        raise RuntimeError("a secret")

    service.find = fail  # type: ignore[method-assign, assignment]
    with SearchServer(service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reply = search(server, {"row": 0})
        assert (reply.status, reply.body) == (500, b"Internal Server Error")
        assert "the search page could not answer" in caplog.text
        assert ask(server, "GET", "images").status == 200
        server.shutdown()


def test_a_row_of_the_gallery_is_searched(server: SearchServer) -> None:
    found = search(server, {"row": 5}, top=7).json
    assert server.service.asked[-1] == [5]  # type: ignore[attr-defined]
    assert (len(found["hits"]), found["own"]) == (7, [5])
    assert found["threshold"] == pytest.approx(0.95)
    assert {hit["image"] for hit in found["hits"]} == {int(number) for number in found["images"]}
    likeness = [hit["similarity"] for hit in found["hits"]]
    assert likeness == sorted(likeness, reverse=True)


def test_a_picture_that_is_sent_is_searched_and_never_written(server: SearchServer) -> None:
    taken = ask(server, "POST", "pictures", png()).json
    assert (taken["width"], taken["height"], len(taken["boxes"])) == (90, 60, 2)
    assert search(server, {"picture": taken["picture"], "box": [-5, 10, 40, 999]}).status == 200
    asked = server.service.asked[-1][0]  # type: ignore[attr-defined]
    assert isinstance(asked, DrawnBox)
    assert asked.box.tolist() == [0, 10, 35, 60]
    assert asked.photo.pixels.shape == (60, 90, 3)
    shown = ask(server, "GET", f"picture/{taken['picture']}")
    assert Image.open(io.BytesIO(shown.body)).size == (90, 60)


def test_pictures_make_room_for_newer_ones(server: SearchServer) -> None:
    names = [ask(server, "POST", "pictures", png()).json["picture"] for _ in range(KEPT + 1)]
    reply = search(server, {"picture": names[0], "box": [0, 0, 20, 20]})
    assert (reply.status, reply.body) == (422, b"That picture is no longer here; choose it again.")
    assert search(server, {"picture": names[-1], "box": [0, 0, 20, 20]}).status == 200


HOSTS = [
    "evil.example",
    "127.0.0.1",
    "127.0.0.1:80",
    "evil.example:{port}",
    "127.0.0.1.evil.example:{port}",
    "[::1]:{port}",
]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("path", ["", "images", "image/0"])
def test_another_name_of_this_machine_is_told_nothing(server: SearchServer, host: str, path: str) -> None:
    """A page elsewhere may have its own name lead here."""
    reply = ask(server, "GET", path, Host=host.format(port=server.server_port))
    assert (reply.status, reply.body) == (404, b"Not Found")


@pytest.mark.parametrize("token", ["", "wrong", "..", "%2e%2e", "%C3%A9"])
def test_without_the_token_nothing_is_told(server: SearchServer, token: str) -> None:
    for path in ("", "images", "image/0", "search"):
        reply = ask(server, "GET", path, token=token)
        assert (reply.status, reply.body) == (404, b"Not Found")
    assert ask(server, "POST", "search", b"{}", token="").status == 404


def test_a_part_of_the_token_is_no_token(server: SearchServer) -> None:
    assert ask(server, "GET", "", token=server.token[:-1]).status == 404
    assert ask(server, "GET", "", token=server.token + "x").status == 404


@pytest.mark.parametrize(
    "origin", ["", "null", "http://evil.example", "https://127.0.0.1:{port}", "http://127.0.0.1:1"]
)
def test_another_page_may_send_nothing(server: SearchServer, origin: str) -> None:
    before = len(server.service.asked)  # type: ignore[attr-defined]
    body = json.dumps({"parts": [{"row": 1}]}).encode()
    for path in ("search", "pictures"):
        reply = ask(server, "POST", path, body, Origin=origin.format(port=server.server_port))
        assert (reply.status, reply.body) == (404, b"Not Found")
    assert len(server.service.asked) == before  # type: ignore[attr-defined]


def test_another_page_may_lead_here_and_load_nothing(server: SearchServer) -> None:
    assert ask(server, "GET", "", Sec_Fetch_Site="cross-site").status == 200
    for path in ("images", "image/0", "picture/x"):
        assert ask(server, "GET", path, Sec_Fetch_Site="cross-site").status == 404
        assert ask(server, "GET", path, Origin="http://evil.example").status == 404


@pytest.mark.parametrize(
    "path",
    [
        *("../../etc/passwd", "image/../../../etc/passwd", "image/..%2f..%2fetc%2fpasswd", "image//etc/passwd"),
        *(
            "image/-1",
            "image/70",
            "image/1e1",
            "image/%D9%A3",
            "image/99999999999999999999",
            "image/",
            "image/1?side=x",
        ),
        *("picture/../x", "picture/", "images?from=-1", "images?from=x", "nothing", "search"),
    ],
)
def test_only_numbers_lead_to_pictures(server: SearchServer, path: str) -> None:
    reply = ask(server, "GET", path)
    assert reply.status in (404, 422)
    assert b"passwd" not in reply.body


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "CONNECT", "TRACE"])
def test_other_methods_are_refused(server: SearchServer, method: str) -> None:
    reply = ask(server, method, "")
    assert reply.status == 501
    assert b"<" not in reply.body


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"null", b"{", b'{"parts": 5}', b'{"parts": []}', b'{"parts": [5]}', b'{"parts": [{}]}'),
        *(b'{"parts": [{"row": -1}]}', b'{"parts": [{"row": 1e9}]}', b'{"parts": [{"row": true}]}', b"[" * 60000),
        *(b'{"parts": [{"row": 1}], "top": 100000}', b'{"parts": [{"row": 1}], "top": "x"}', b"\xff\xfe"),
        b'{"parts": [{"row": 1}, {"row": 2}, {"row": 1}]}',
        b'{"parts": [{"picture": ["x"], "box": [1, 2, 3, 4]}]}',
        b'{"parts": [' + b",".join([b'{"row": 1}'] * 21) + b"]}",
    ],
)
def test_a_search_that_cannot_be_meant(server: SearchServer, body: bytes) -> None:
    reply = ask(server, "POST", "search", body)
    assert 400 <= reply.status < 500
    assert b"Traceback" not in reply.body


@pytest.mark.parametrize(
    "box", ["[NaN, 1, 20, 20]", "[1, 1, Infinity, NaN]", "[500, 1, 20, 20]", "[1, 1, 2, 20]", "[1, 2]"]
)
def test_a_box_that_is_none(server: SearchServer, box: str) -> None:
    name = ask(server, "POST", "pictures", png()).json["picture"]
    reply = ask(server, "POST", "search", f'{{"parts": [{{"picture": "{name}", "box": {box}}}]}}'.encode())
    assert reply.status in (400, 422)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bomb(8500, 8500), b"at most 64 million are taken"),
        (bomb(60000, 60000), b"at most 64 million are taken"),
        (bomb(64_000_001, 1) + bytes(1 << 16), b"Too many pixels; at most 64 million are taken."),
        (bomb(8000, 8000) + bytes(1 << 16), b"not a readable image"),
        (bomb(500, 500), b"not a readable image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run", b"not a readable image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"not a readable image"),
        (b"%PDF-1.4", b"not a readable image"),
        (b"", b"not a readable image"),
        (png()[:500], b"not a readable image"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_line(server: SearchServer, data: bytes, said: bytes) -> None:
    reply = ask(server, "POST", "pictures", data)
    assert reply.status == 422
    assert said in reply.body
    assert reply.body.count(b"\n") == 0


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        ("pictures", str(PICTURE_BYTES + 1), 413),
        ("search", str(REQUEST_BYTES + 1), 413),
        ("pictures", "9" * 400, 413),
        *(("pictures", length, 411) for length in ("", "-1", "x", "1_0", "٣".encode().decode("latin-1"))),
    ],
)
def test_what_is_too_large_is_not_even_read(server: SearchServer, path: str, length: str, status: int) -> None:
    assert ask(server, "POST", path, None, Content_Length=length).status == status


def test_a_body_in_pieces_is_refused(server: SearchServer) -> None:
    reply = ask(server, "POST", "pictures", b"", Content_Length="5", Transfer_Encoding="chunked")
    assert reply.status == 411


@pytest.mark.parametrize(
    "request_line", [b"GET\r\n\r\n", b"\x00\xff\r\n\r\n", b"GET " + b"/" * 70000 + b" HTTP/1.1\r\n\r\n"]
)
def test_noise_is_no_end_of_the_server(server: SearchServer, request_line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(request_line)
        answer = connection.recv(1 << 16)
    assert b"Traceback" not in answer
    assert ask(server, "GET", "").status == 200


def raw(server: SearchServer, request: str) -> bytes:
    """The first line of what comes back; TOKEN and HOST in ``request`` are the server's."""
    text = request.replace("TOKEN", server.token).replace("HOST", f"127.0.0.1:{server.server_port}")
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(text.encode())
        return connection.makefile("rb").readline()


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("GET http://elsewhere/TOKEN/ HTTP/1.1\r\nHost: HOST\r\n\r\n", 404),
        ("GET http://HOST/TOKEN/ HTTP/1.1\r\nHost: HOST\r\n\r\n", 404),
        ("GET /TOKEN/ HTTP/1.1\r\nHost: HOST\r\nHost: elsewhere\r\n\r\n", 404),
        ("GET /TOKEN/ HTTP/1.1\r\nHost: HOST\r\n" + "X: y\r\n" * 200 + "\r\n", 431),
        ("GET /TOKEN/ HTTP/1.1\r\nHost: HOST\r\nX: " + "y" * 70000 + "\r\n\r\n", 431),
        ("POST /TOKEN/search HTTP/1.1\r\nHost: HOST\r\nOrigin: http://HOST\r\n\r\n", 411),
        (
            "POST /TOKEN/pictures HTTP/1.1\r\nHost: HOST\r\nOrigin: http://HOST\r\nTransfer-Encoding: chunked\r\n\r\n"
            "5\r\nhello\r\n0\r\n\r\n",
            411,
        ),
        (
            "POST /TOKEN/search HTTP/1.1\r\nHost: HOST\r\nOrigin: http://HOST\r\nContent-Length: 2\r\n"
            "Content-Length: 50\r\n\r\n{}",
            400,
        ),
    ],
)
def test_requests_that_no_browser_makes(server: SearchServer, request_text: str, status: int) -> None:
    assert f" {status} ".encode() in raw(server, request_text)


def test_many_idle_connections_keep_nobody_waiting(server: SearchServer) -> None:
    with contextlib.ExitStack() as idle:
        for _ in range(200):
            connection = socket.create_connection(("127.0.0.1", server.server_port), timeout=30)
            idle.enter_context(connection).sendall(b"GET /")
        assert ask(server, "GET", "images").status == 200


def test_many_ask_at_once(server: SearchServer) -> None:
    def one(number: int) -> int:
        if number % 3 == 0:
            return ask(server, "POST", "pictures", png()).status
        return (ask(server, "GET", f"image/{number}") if number % 3 == 1 else search(server, {"row": number})).status

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(one, range(48))) == {200}


PICTURES = {
    "cmyk.jpg": lambda image: image.convert("CMYK"),
    "deep.png": lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257),
    "one bit.png": lambda image: image.convert("1"),
    "clear.png": lambda image: image.convert("RGBA"),
    "palette.png": lambda image: image.convert("P"),
    "moving.gif": lambda image: image,
    "moving.webp": lambda image: image,
    "pages.tiff": lambda image: image,
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_every_kind_are_searched(server: SearchServer, name: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    frames = [image] * 3 if name.startswith(("moving", "pages")) else []
    buffer = io.BytesIO()
    made = PICTURES[name](image)
    kind = {"jpg": "jpeg"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
    made.save(buffer, kind, **({"save_all": True, "append_images": frames} if frames else {}))
    taken = ask(server, "POST", "pictures", buffer.getvalue()).json
    assert (taken["width"], taken["height"]) == (90, 60)
    assert search(server, {"picture": taken["picture"], "box": [5, 5, 40, 40]}).status == 200


def test_the_server_listens_on_this_machine_alone(server: SearchServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.address == f"http://127.0.0.1:{server.server_port}/{server.token}/"
    assert len(server.token) >= 32


def test_two_servers_have_two_tokens() -> None:
    with SearchServer(FakeService(images=1)) as one, SearchServer(FakeService(images=1)) as other:
        assert one.token != other.token


def test_a_picture_that_is_gone_is_said() -> None:
    service = FakeService(images=2, odd_name="gone.jpg")
    with SearchServer(service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reply = ask(server, "GET", "image/0")
        assert (reply.status, reply.body) == (422, b"gone.jpg: no readable file")
        server.shutdown()

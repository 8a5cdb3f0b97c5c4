"""The search page as a browser shows it: clicked, drawn on, used by keyboard, and with names that mean harm."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.finding.photos import Photo
from stages.finding.web.page import finished_search
from stages.finding.web.server import SearchServer
from stages.finding.web.service import DrawnBox
from tests.finding.fake import FakeService, draw
from tests.page.axe import SIZES, findings
from tests.page.browser import EXECUTABLE, Browser
from tests.page.test_browser import CONTRAST, WIDER

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="chromium is not installed (apt-get install chromium)")

MARKUP = "<img src=x onerror='window.broken=1'></script><script>window.broken=2</script>&quot;.jpg"
FITS = WIDER.replace(".scroll,", ".crop, .scroll,")  # a cut out person is a larger picture behind a window
CARDS = "document.querySelectorAll('#hits .card').length"
TYPED = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, " ": 32}


class Visitor:
    """Somebody with a browser on the page of ``service``."""

    def __init__(self, browser: Browser, service: FakeService, address: str) -> None:
        self.browser, self.service, self.address = browser, service, address
        self.evaluate = browser.evaluate

    def open(self, *, width: int = 1440, dark: bool = False) -> None:
        self.browser.errors.clear()
        self.browser.requests.clear()
        self.browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.browser.call("Emulation.setEmulatedMedia", features=[scheme])
        self.browser.call("Page.navigate", url="about:blank")
        self.browser.call("Page.navigate", url=self.address)
        self.wait("document.querySelectorAll('#pictures .card').length > 0")

    def wait(self, condition: str) -> None:
        until = time.monotonic() + 60
        while not self.evaluate(condition):
            assert time.monotonic() < until, f"{condition}: {self.browser.errors}"
            time.sleep(0.03)

    def place(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height in the window of the first that matches, once it has come into view."""
        found = self.evaluate(
            f"(async () => {{ const e = document.querySelector({selector!r}); "
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); await new Promise(requestAnimationFrame); "
            "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
        )
        left, top, width, height = found
        return left, top, width, height

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def click(self, selector: str) -> None:
        left, top, width, height = self.place(selector)
        x, y = left + width / 2, top + height / 2
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def press(self, *keys: str, shift: bool = False) -> None:
        for key in keys:
            text = {"Enter": {"text": "\r"}, " ": {"text": " "}}.get(key, {})
            for kind in ("keyDown", "keyUp"):
                self.browser.call(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    code="Space" if key == " " else key,
                    windowsVirtualKeyCode=TYPED[key],
                    modifiers=8 if shift else 0,
                    **(text if kind == "keyDown" else {}),
                )

    def press_until(self, key: str, condition: str, most: int = 60) -> None:
        for _ in range(most):
            if self.evaluate(condition):
                return
            self.press(key)
        raise AssertionError(f"{most} times {key}: never {condition}")

    def searched(self, act: Callable[[], None]) -> Any:
        """What is asked of the service because of ``act``, once its hits are shown."""
        self.evaluate("document.querySelectorAll('#hits > li').forEach(e => { e.dataset.old = 1; })")
        before = len(self.service.asked)
        act()
        self.wait(f"{CARDS} > 0 && !document.querySelector('.busy, #hits [data-old]')")
        assert len(self.service.asked) == before + 1
        return self.service.asked[-1]

    def choose(self, path: Path) -> None:
        """Hand a file to the page's button, as the system's dialogue would."""
        root = self.browser.call("DOM.getDocument")["root"]["nodeId"]
        node = self.browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.browser.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)
        self.wait("document.getElementById('large').open")
        self.wait("document.querySelector('#large img').complete")

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.evaluate(f"[...document.querySelectorAll({selector!r})].map(e => e.textContent.trim())")
        return found


@contextmanager
def serve(service: FakeService) -> Iterator[str]:
    with SearchServer(service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.address
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def visitor(browser: Browser) -> Iterator[Visitor]:
    service = FakeService(images=70, odd_name=MARKUP)
    with serve(service) as address:
        yield Visitor(browser, service, address)


@pytest.fixture
def wide_picture(tmp_path: Path) -> Path:
    path = tmp_path / "mine.png"
    Image.fromarray(draw([(3, 60, 60, 150), (7, 300, 80, 140)], (300, 450), 99)).save(path)
    return path


@pytest.fixture
def tall_picture(tmp_path: Path) -> Path:
    path = tmp_path / "tall.png"
    Image.fromarray(draw([(3, 60, 60, 150)], (400, 200), 99)).save(path)
    return path


def test_anybody_in_any_picture_can_be_clicked_and_is_then_searched(visitor: Visitor) -> None:
    visitor.open()
    row = int(visitor.service.gallery.rows_of("street/002.jpg")[0])
    asked = visitor.searched(lambda: visitor.click("#pictures .card:nth-child(3) button.box"))
    assert asked == [row]
    assert "the query's own box in street/002.jpg is left out" in visitor.texts("#notes li")[0]
    likeness = [float(text) for text in visitor.texts("#hits .likeness")]
    assert likeness == sorted(likeness, reverse=True)
    assert len(likeness) == 20
    # The person stands beside the hits: cut out, and in the whole picture.
    assert visitor.evaluate("document.querySelectorAll('#person .crop img').length") == 1
    assert visitor.evaluate("document.querySelectorAll('#person .frame .asked').length") == 1
    hit = "document.querySelector('#hits .card:nth-child(2) .frame').getAttribute('aria-label')"
    other = visitor.evaluate(hit)
    assert visitor.searched(lambda: visitor.click("#hits .card:nth-child(2) button.hit")) != asked
    assert other.removeprefix("Hit 2: ") in visitor.texts("#person > .hint")


def test_the_threshold_is_a_line_between_hits_and_every_hit_says_on_which_side_it_is(visitor: Visitor) -> None:
    visitor.open()
    visitor.searched(lambda: visitor.click("#pictures .card:nth-child(3) button.box"))
    items = visitor.evaluate("[...document.querySelectorAll('#hits > li')].map(e => e.className.trim())")
    line = items.index("threshold")
    assert 0 < line < 20
    assert items == ["card same"] * line + ["threshold"] + ["card"] * (20 - line)
    verdicts = visitor.texts("#hits .verdict")
    assert verdicts == ["same person"] * line + ["below the threshold"] * (20 - line)
    assert "Threshold 0.950" in visitor.texts("#hits .threshold")[0]
    style = "getComputedStyle(document.querySelector('.same .verdict'), '::before').content"
    assert visitor.evaluate(style) == '"✓ "'
    assert visitor.texts("#announcement") == [f"20 hits. {line} of the hits shown are taken for the person."]
    assert visitor.texts("#verdict") == [f"{line} of the hits shown are taken for the person."]


def test_the_whole_search_without_a_mouse(visitor: Visitor) -> None:
    """Tab goes from picture to picture, arrows from person to person, Enter searches and enlarges, Escape closes."""
    visitor.open()
    first = "document.activeElement.matches('#pictures .card:nth-child(2) button.box')"
    visitor.press_until("Tab", first)
    rows = visitor.service.gallery.rows_of("street/001.jpg")
    assert len(rows) == 3
    visitor.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft")
    assert visitor.searched(lambda: visitor.press("Enter")) == [rows[-1]]
    visitor.press_until("Tab", "document.activeElement.matches('#hits .card:first-child input')")
    visitor.press(" ")
    assert visitor.texts("#ticked") == ["1 hit is this person."]
    visitor.press_until("Tab", "document.activeElement.getAttribute('aria-label') == 'Enlarge hit 1'")
    visitor.press("Enter")
    visitor.wait("document.getElementById('large').open")
    visitor.press("Escape")
    visitor.wait("!document.getElementById('large').open")
    assert visitor.evaluate("document.activeElement.getAttribute('aria-label')") == "Enlarge hit 1"


def test_hits_open_large_one_after_the_other_and_people_in_them_are_next(visitor: Visitor) -> None:
    visitor.open()
    visitor.searched(lambda: visitor.click("#pictures .card:nth-child(3) button.box"))
    visitor.click("#hits .card:first-child .foot .plain")
    visitor.wait("document.querySelector('#large-picture img').complete")
    assert visitor.evaluate("document.getElementById('previous').disabled") is True
    visitor.click("#next")
    names = visitor.texts("#hits .name")
    assert visitor.texts("#large-title") == [f"Hit 2: {names[1]}"]
    assert visitor.texts("#beside figcaption")[0] == "the person"
    visitor.searched(lambda: visitor.click("#large-picture button.box"))
    assert visitor.evaluate("document.getElementById('large').open") is False


def test_ticked_hits_are_searched_along(visitor: Visitor) -> None:
    visitor.open()
    first = visitor.searched(lambda: visitor.click("#pictures .card:nth-child(3) button.box"))
    hit = visitor.service.find(first, 20).hits[0].row
    visitor.click("#hits .card:first-child input")
    assert visitor.searched(lambda: visitor.click("#again button")) == [*first, hit]
    assert visitor.evaluate("document.querySelectorAll('#person .crop').length") == 2
    assert visitor.searched(lambda: visitor.click("#person .crops li:nth-child(2) button")) == first


def test_a_picture_of_ones_own_is_chosen_and_somebody_in_it(visitor: Visitor, wide_picture: Path) -> None:
    visitor.open()
    visitor.choose(wide_picture)
    assert visitor.texts("#large-hint") == ["2 people were found. Choose one, or draw a box around somebody."]
    (asked,) = visitor.searched(lambda: visitor.click("#large-picture button.box"))
    assert isinstance(asked, DrawnBox)
    np.testing.assert_allclose(asked.box, [45, 30, 180, 270], atol=0.1)
    assert asked.photo.pixels.shape == (300, 450, 3)
    assert visitor.texts("#person > .hint") == ["a picture of your own"]
    assert visitor.texts("#notes li")[0].endswith("images were searched.")


def test_a_box_is_drawn_with_the_mouse(visitor: Visitor, tall_picture: Path) -> None:
    visitor.open()
    visitor.choose(tall_picture)
    assert visitor.texts("#large-hint") == ["Nobody was found in it: draw a box around the person."]
    assert visitor.evaluate("document.getElementById('search-box').disabled") is True
    left, top, width, height = visitor.place("#large-picture .frame")
    scale = width / 200
    assert height / 400 == pytest.approx(scale, rel=1e-3)
    visitor.mouse("mousePressed", left + 110 * scale, top + 210 * scale)
    for x, y in ((90, 150), (60, 60)):  # from the lower right corner to the upper left
        visitor.mouse("mouseMoved", left + x * scale, top + y * scale)
    visitor.mouse("mouseReleased", left + 60 * scale, top + 60 * scale)
    visitor.mouse("mouseMoved", left + 5, top + 5)
    (asked,) = visitor.searched(lambda: visitor.click("#search-box"))
    np.testing.assert_allclose(asked.box, [60, 60, 110, 210], atol=2)


def test_a_box_is_drawn_by_keyboard(visitor: Visitor, tall_picture: Path) -> None:
    visitor.open()
    visitor.choose(tall_picture)
    for name, value in (("box-x", 10), ("box-y", 20), ("box-width", 60), ("box-height", 150)):
        visitor.press_until("Tab", f"document.activeElement.id == '{name}'")
        visitor.browser.call("Input.insertText", text=str(value))
    visitor.evaluate("document.querySelector('.drawn').focus()")
    visitor.press("ArrowRight", "ArrowDown")  # a hundredth of the longer side each
    visitor.press("ArrowDown", shift=True)
    (asked,) = visitor.searched(lambda: visitor.click("#search-box"))
    assert asked.box.tolist() == [14, 24, 74, 178]


def test_a_box_stays_in_its_picture(visitor: Visitor, tall_picture: Path) -> None:
    visitor.open()
    visitor.choose(tall_picture)
    visitor.evaluate("draw([150, 390, 500, 50])")
    assert visitor.evaluate("drawn.box") == [0, 350, 200, 50]
    visitor.press("Escape")


def test_a_dropped_picture_is_taken(visitor: Visitor) -> None:
    visitor.open()
    visitor.evaluate(
        "(async () => { const canvas = document.createElement('canvas'); canvas.width = 400; canvas.height = 300; "
        "canvas.getContext('2d').fillRect(50, 50, 60, 200); "
        "const blob = await new Promise(done => canvas.toBlob(done)); const data = new DataTransfer(); "
        "data.items.add(new File([blob], 'dropped.png')); "
        "for (const kind of ['dragover', 'drop']) document.body.dispatchEvent(new DragEvent(kind, "
        "{dataTransfer: data, bubbles: true, cancelable: true})); })()"
    )
    visitor.wait("document.getElementById('large').open")
    assert visitor.texts("#large-title") == ["Who is it?"]
    visitor.press("Escape")


def test_what_is_no_picture_is_said(visitor: Visitor, tmp_path: Path) -> None:
    visitor.open()
    (tmp_path / "notes.txt").write_text("no picture")
    root = visitor.browser.call("DOM.getDocument")["root"]["nodeId"]
    node = visitor.browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    visitor.browser.call("DOM.setFileInputFiles", files=[str(tmp_path / "notes.txt")], nodeId=node)
    visitor.wait("!document.getElementById('error').hidden")
    assert "not a readable image" in visitor.texts("#error")[0]
    visitor.browser.errors.clear()


def test_the_way_back_leads_to_the_search_before(visitor: Visitor) -> None:
    visitor.open()
    first = visitor.searched(lambda: visitor.click("#pictures .card:nth-child(3) button.box"))
    visitor.searched(lambda: visitor.click("#pictures .card:nth-child(5) button.box"))
    assert visitor.searched(lambda: visitor.evaluate("history.back()")) == first


def test_more_pictures_are_shown_and_found_by_name(visitor: Visitor) -> None:
    visitor.open()
    assert visitor.texts("#count") == ["70 pictures"]
    visitor.click("#more")
    visitor.wait("document.querySelectorAll('#pictures .card').length == 70")
    assert visitor.evaluate("document.getElementById('more').hidden") is True
    visitor.click("#filter")
    visitor.browser.call("Input.insertText", text="street/03")
    visitor.wait("document.querySelectorAll('#pictures .card').length == 10")


def test_names_are_text_whatever_they_say(visitor: Visitor) -> None:
    visitor.open()
    assert visitor.texts("#pictures .name")[0] == MARKUP
    visitor.searched(lambda: visitor.click("#pictures .card:first-child button.box"))
    assert MARKUP in visitor.texts("#notes li")[0]
    assert visitor.evaluate("window.broken") is None
    assert visitor.browser.errors == []


def test_nothing_is_asked_of_anybody_else(visitor: Visitor, wide_picture: Path) -> None:
    visitor.open()
    visitor.searched(lambda: visitor.click("#pictures .card:nth-child(3) button.box"))
    visitor.choose(wide_picture)
    visitor.press("Escape")
    visitor.evaluate("scrollTo(0, document.body.scrollHeight); new Promise(done => setTimeout(done, 300))")
    outside = [address for address in visitor.browser.requests if not address.startswith(("data:", "about:"))]
    assert outside
    assert all(address.startswith(visitor.address) for address in outside)
    assert visitor.browser.errors == []


def test_the_policy_stops_what_is_slipped_in(visitor: Visitor) -> None:
    visitor.open()
    visitor.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.broken = 1\">')")
    elsewhere = "http://127.0.0.1:9/"
    assert visitor.evaluate(f"fetch('{elsewhere}').then(() => 'sent', () => 'refused')") == "refused"
    assert visitor.evaluate("window.broken") is None
    assert any("violates" in error for error in visitor.browser.errors)
    visitor.browser.errors.clear()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_window_and_text_stands_out(
    visitor: Visitor, wide_picture: Path, width: int, dark: bool
) -> None:
    visitor.open(width=width, dark=dark)
    visitor.searched(lambda: visitor.click("#pictures .card:nth-child(3) button.box"))
    for step in ("0", "document.body.scrollHeight / 3", "document.body.scrollHeight"):
        visitor.evaluate(f"scrollTo(0, {step})")
        assert visitor.evaluate("document.documentElement.scrollWidth") <= width
        assert visitor.evaluate(FITS) == []
    assert visitor.evaluate(CONTRAST) == []
    long = (
        "document.querySelectorAll('#hits .name').forEach(e => { e.textContent = 'a/name/of/several/folders_01.jpg'; })"
    )
    visitor.evaluate(long)
    assert max(visitor.evaluate("[...document.querySelectorAll('#hits .likeness')].map(e => e.offsetHeight)")) < 40
    visitor.choose(wide_picture)
    visitor.evaluate("draw([40, 40, 60, 150])")
    assert visitor.evaluate("document.getElementById('large').scrollWidth") <= width
    assert visitor.evaluate(CONTRAST) == []
    visitor.press("Escape")


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_a_screen_reader_finds_nothing_serious(visitor: Visitor, wide_picture: Path, width: int, dark: bool) -> None:
    visitor.open(width=width, dark=dark)
    assert findings(visitor.browser) == []
    visitor.searched(lambda: visitor.click("#pictures .card:nth-child(3) button.box"))
    assert findings(visitor.browser) == []
    visitor.choose(wide_picture)
    visitor.evaluate("draw([40, 40, 60, 150])")
    assert findings(visitor.browser) == []
    visitor.press("Escape")


def test_without_a_calibration_there_is_no_line_but_a_warning(browser: Browser) -> None:
    service = FakeService(images=5, calibrated=False)
    with serve(service) as address:
        visitor = Visitor(browser, service, address)
        visitor.open()
        visitor.searched(lambda: visitor.click("#pictures .card:nth-child(3) button.box"))
        assert visitor.texts("#verdict.warning")[0].startswith("This is a ranking, which cannot tell whether")
        assert visitor.texts("#hits .threshold, #hits .verdict") == []


def test_a_picture_that_is_gone_says_so(browser: Browser) -> None:
    service = FakeService(images=2, odd_name="gone.jpg")
    with serve(service) as address:
        visitor = Visitor(browser, service, address)
        visitor.open()
        gone = "document.querySelector('#pictures .card:first-child img').alt"
        visitor.wait(f"{gone}.includes('cannot be shown')")
        visitor.browser.errors.clear()


@pytest.mark.parametrize("dark", [False, True])
def test_a_finished_search_is_one_file_that_asks_for_nothing(browser: Browser, tmp_path: Path, dark: bool) -> None:
    service = FakeService(images=20, odd_name=MARKUP)
    people = draw([(3, 60, 60, 150)], (400, 200), 9)
    asked = [0, DrawnBox(Photo("query", people, ""), np.array([60, 60, 110, 210], np.float32))]
    page = tmp_path / "search.html"
    page.write_text(finished_search(service, asked, service.find(asked, 20)), encoding="utf-8")
    browser.errors.clear()
    browser.requests.clear()
    browser.show(page, width=390, dark=dark)
    assert browser.errors == []
    assert [address for address in browser.requests if not address.startswith("data:")] == [page.as_uri()]
    assert browser.evaluate(CARDS) == 20
    assert browser.evaluate("document.querySelectorAll('#person .crop').length") == 2
    assert browser.evaluate("window.broken") is None
    assert browser.evaluate(
        "[...document.querySelectorAll('#hits img')].every(e => e.src.startsWith('data:image/jpeg'))"
    )
    assert browser.evaluate("document.querySelectorAll('button.box, #file:not(.live *)').length") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    assert browser.evaluate(FITS) == []
    assert browser.evaluate(CONTRAST) == []
    assert findings(browser) == []
    browser.evaluate("document.querySelector('#hits .foot .plain').click()")
    assert browser.evaluate("document.getElementById('large').open") is True

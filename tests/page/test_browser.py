"""The page as a browser sees it: nothing asked of the network, nothing wider than the window, tables that sort."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.page.axe import SIZES, findings
from tests.page.browser import EXECUTABLE, Browser
from tests.page.conftest import made_up_run

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="chromium is not installed (apt-get install chromium)")

WIDER = """[...document.querySelectorAll('body *')].filter(e => {
  if (e.closest('.scroll, .hidden, .skip')) return false;
  const box = e.getBoundingClientRect();
  return box.width > 0 && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map(e => e.outerHTML.slice(0, 120))"""
CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d');
  const parts = colour => { canvas.fillStyle = '#000'; canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = colour => parts(colour).slice(0, 3).map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!c.startsWith('rgba(0, 0, 0, 0')) return c; } return 'white'; };
  const walker = document.createTreeWalker(document.querySelector('body'), NodeFilter.SHOW_TEXT);
  const faint = new Set();
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || e.closest('script, .hidden, [aria-hidden]')) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) faint.add(e.outerHTML.slice(0, 100));
  }
  return [...faint];
})()"""
FIRST_COLUMN = "[...document.querySelectorAll('#sweep tbody tr')].map(row => row.cells[0].textContent)"
SORT_STATES = "[...document.querySelectorAll('#sweep thead th')].map(th => th.getAttribute('aria-sort'))"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with made_up_run(tmp_path_factory.mktemp("run")) as run:
        run.report()
        return run.folder / "results/report/index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_window(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.show(page, width=width, dark=dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(WIDER) == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(browser: Browser, page: Path, dark: bool) -> None:
    browser.show(page, dark=dark)
    assert browser.evaluate(CONTRAST) == []


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_a_screen_reader_finds_nothing_serious(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.show(page, width=width, dark=dark)
    assert findings(browser) == []
    browser.evaluate("document.querySelector('.window').showPopover(); document.querySelector('details').open = true")
    assert findings(browser) == []


def test_what_a_screen_reader_cannot_read_would_be_found(browser: Browser, page: Path) -> None:
    browser.show(page)
    browser.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<button></button>')")
    assert [each.partition(":")[0] for each in findings(browser)] == ["button-name"]


@pytest.mark.parametrize("width", [390, 1440])
def test_a_hit_opens_as_its_whole_scene_under_its_boxes(browser: Browser, page: Path, width: int) -> None:
    browser.show(page, width=width)
    browser.evaluate("document.querySelectorAll('#ranking .opens')[1].click()")
    assert browser.evaluate("document.querySelectorAll('.window:popover-open').length") == 1
    image, boxes, natural = browser.evaluate(
        "(() => { const w = document.querySelector('.window:popover-open'), i = w.querySelector('img'); "
        "const size = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; }; "
        "return [size(i), size(w.querySelector('svg')), i.naturalWidth / i.naturalHeight]; })()"
    )
    assert image == pytest.approx(boxes, abs=0.6)
    assert image[2] / image[3] == pytest.approx(natural, rel=0.02)
    assert image[2] > min(width, 600) / 2
    assert "found here" in browser.evaluate("document.querySelector('.window:popover-open p').textContent")


def test_charts_follow_the_colour_scheme(browser: Browser, page: Path) -> None:
    ink = "getComputedStyle(document.querySelector('.chart svg text')).fill"
    browser.show(page)
    light = browser.evaluate(ink)
    browser.show(page, dark=True)
    assert browser.evaluate(ink) != light


def test_the_console_is_quiet_and_nothing_is_asked_of_the_network(browser: Browser, page: Path) -> None:
    browser.errors.clear()
    browser.requests.clear()
    browser.show(page)
    browser.evaluate("scrollTo(0, document.body.scrollHeight); new Promise(done => setTimeout(done, 300))")
    assert browser.errors == []
    outside = [address for address in browser.requests if not address.startswith("data:")]
    assert outside == [page.resolve().as_uri()]
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_the_policy_would_stop_a_script_and_a_request(browser: Browser, page: Path) -> None:
    browser.show(page)
    browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.broken = 1\">')")
    assert browser.evaluate("fetch('data:,x').then(() => 'sent', () => 'refused')") == "refused"
    assert browser.evaluate("window.broken") is None
    browser.errors.clear()


def test_sorting_by_click_and_by_keyboard(browser: Browser, page: Path) -> None:
    browser.show(page)
    before = browser.evaluate(FIRST_COLUMN)
    browser.evaluate("document.querySelectorAll('#sweep th button')[4].click()")
    assert browser.evaluate(SORT_STATES)[4] == "descending"
    falling = browser.evaluate(FIRST_COLUMN)
    assert falling[0] == "full"
    assert falling[-1] == "timestep=100"
    browser.evaluate("document.querySelectorAll('#sweep th button')[4].focus()")
    browser.press("Enter", 13)
    assert browser.evaluate(SORT_STATES)[4] == "ascending"
    assert browser.evaluate(FIRST_COLUMN) == falling[::-1]
    assert "ascending" in browser.evaluate("document.getElementById('announcement').textContent")
    browser.evaluate("document.querySelector('#sweep th button').click()")
    first, *others = browser.evaluate(SORT_STATES)
    assert first == "ascending"
    assert set(others) == {"none"}
    assert sorted(browser.evaluate(FIRST_COLUMN)) == sorted(before)


def test_every_control_can_be_reached_by_keyboard(browser: Browser, page: Path) -> None:
    browser.show(page)
    browser.press("Tab", 9)
    assert browser.evaluate("document.activeElement.className") == "skip"
    wanted = browser.evaluate("document.querySelectorAll('a, button, summary, [tabindex=\"0\"]').length")
    reached = browser.evaluate(
        "[...document.querySelectorAll('a, button, summary, [tabindex]')].filter(e => e.tabIndex >= 0).length"
    )
    assert reached == wanted

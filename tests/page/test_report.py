import json
import re
import shutil
from dataclasses import asdict
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffps.heads.config import ModelConfig
from stages.page.cost import measure_cost
from stages.page.evidence import NotThereError
from tests.page.conftest import HOSTILE, SIZE, SMALL, Run, made_up_run, save_head
from tests.page.made_probe import write_probe

PAGE = "results/report/index.html"
ADDRESS = {"src", "href", "srcset", "action", "poster", "data", "formaction", "xlink:href"}
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Elements with their attributes, and whether every element that was opened was closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    with made_up_run(tmp_path_factory.mktemp("run")) as run:
        run.report()
        return Reader((run.folder / PAGE).read_text())


def test_the_first_screen_says_what_was_run_and_how_good_it_is(page: Reader) -> None:
    text = " ".join(" ".join(page.text).split())
    assert "41.2 %" in text
    assert "colours 31.0 %" in text
    assert "chance 7.0 %" in text
    assert "Person search: given one picture of a person" in text
    assert re.search(r"41\.2 % \[\d+\.\d, \d+\.\d\] %", text)
    assert "71.2 %" in text
    assert "learned from 6 scenes in 6 epochs and then searched 6 others" in text
    assert "images of 192 × 128 pixels" in text


def test_what_the_cache_saved_is_reckoned_from_receipts(page: Reader) -> None:
    text = " ".join(" ".join(page.text).split())
    assert "2 MB" in text
    assert "18 s" in text
    assert "anew takes 9 s; from the cache training waits 0.2 s" in text
    assert "1.0 epochs of training" in text
    assert "it saved 44 s" in text


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [("builtin:random", "random weights"), ("builtin:streets", "drawn masks"), ("some/model", None)],
)
def test_the_page_says_what_its_maps_are_worth(run: Run, checkpoint: str, words: str | None) -> None:
    run.change("encode", checkpoint=checkpoint)
    run.report()
    notes = re.findall(r'role="note">(.*?)</p>', (run.folder / PAGE).read_text(), re.DOTALL)
    assert [words in note for note in notes] == [True] if words else notes == []


def test_nothing_points_outside_the_file(page: Reader) -> None:
    for tag, attributes in page.elements:
        for name in ADDRESS & attributes.keys():
            assert (attributes[name] or "").startswith(("data:", "#")), (tag, attributes)
        assert "http" not in (attributes.get("style") or "")
    html = "".join(page.text)
    assert "@import" not in html
    assert "url(" not in html.replace("url(#", "")


def test_what_the_head_owes_to_its_modules_and_what_they_learned_is_told(page: Reader) -> None:
    text = " ".join(" ".join(page.text).split())
    assert "MSFRN, which refines frequencies -3.0 points ± 1.0 38.0 %" in text
    assert "SFAN weights head 0.3" in text
    assert "DGRPN gate max 1.2" in text


def test_undefined_and_zero_scores_come_with_their_cause(page: Reader) -> None:
    text = " ".join(" ".join(page.text).split())
    assert "Left out of the means: 1 of 6 queries" in text
    assert "Scored 0 for want of a detection of their person: 1 of 5 queries." in text
    assert "Of 28 detections, 22 are right" in text
    assert "Detected: labelled 80.0 % of 20, unlabelled 25.0 % of 4 persons; labelled are" in text


def test_where_no_query_has_its_person_scores_are_dashes_and_the_cause_is_told(run: Run) -> None:
    path = run.folder / "results/evaluate/metrics.json"
    metrics = json.loads(path.read_text())
    metrics["search"] |= {"map": None, "top1": None, "queries_without_positives": 6}
    metrics["chance"] = {"map": None, "top1": None}
    metrics["causes"] |= {"without_person": 6, "undetected": 0}
    path.write_text(json.dumps(metrics))
    names = pq.read_table(run.folder / "results/evaluate/per_query.parquet")["query_id"].to_pylist()
    run.table("results/evaluate/per_query.parquet", {"query_id": names, "ap": pa.nulls(len(names), pa.float64())})
    run.report()
    text = " ".join(" ".join(Reader((run.folder / PAGE).read_text()).text).split())
    assert "No score is defined: none of 6 queries has its person in its gallery." in text
    assert re.search(r"Mean AP\s+–", text)
    assert "Mean AP 41.2" not in text


def test_what_every_band_of_msfrn_learned_is_told(run: Run) -> None:
    path = run.folder / "results/evaluate/metrics.json"
    metrics = json.loads(path.read_text())
    metrics["learned"]["msfrn"] = {"level3": {"high_x": 0.0625, "high_xy": -0.125}}
    path.write_text(json.dumps(metrics))
    run.report()
    text = " ".join(" ".join(Reader((run.folder / PAGE).read_text()).text).split())
    assert "MSFRN level3 high x 0.0625" in text
    assert "MSFRN level3 high xy -0.125" in text


def test_a_sweep_says_what_its_errors_count(run: Run) -> None:
    run.report()
    assert "errors count the queries" in (run.folder / PAGE).read_text()
    effect = {"factor": "sfan", "level": "off", "reference": "on", "change": -0.02, "error": 0.005, "notable": True}
    run.write("results/sweep/effects.json", {"basis": "Errors from the scatter between seeds.", "effects": [effect]})
    run.report()
    text = " ".join(" ".join(Reader((run.folder / PAGE).read_text()).text).split())
    assert "errors count the queries" not in text
    assert "These heads were trained for 3 epochs, the one this page is about for 6" in text
    assert "Errors from the scatter between seeds." in text
    assert "sfan: off against on -2.0 points ± 0.5 above twice its error" in text


def test_every_figure_says_how_to_read_it_and_every_share_is_a_percentage(filled: Run) -> None:
    write_probe(filled, (0, 100))
    html = (filled.report(), (filled.folder / PAGE).read_text())[1]
    figures = re.findall(r"<figure.*?</figure>", html, re.DOTALL)
    assert len(figures) > 12
    assert not [figure[:200] for figure in figures if "How to read this." not in figure]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", html.split('id="recipe"')[0])
    learned = html.split("<caption>Learned scalars")[1].split("</table>")[0]
    assert not [cell for cell in cells if re.fullmatch(r"-?0\.\d{3,}", cell) and f">{cell}<" not in learned]
    assert not re.findall(r"\d%[^;\"]", re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", html, flags=re.DOTALL))


def test_hostile_names_are_text_and_nothing_else(page: Reader) -> None:
    assert len(page.all("script")) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert f"q0{HOSTILE}, AP" in "".join(page.text)
    assert any(HOSTILE.replace("/", "") in (image["alt"] or "") for image in page.all("img"))


def test_a_reader_who_cannot_see_is_told_the_same(page: Reader) -> None:
    assert all(image.get("alt") for image in page.all("img"))
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("main")) == len(page.all("h1")) == len(page.all("nav")) == 1
    assert all(table in ("", None) or table for table in page.all("table"))
    assert len(page.all("caption")) == len(page.all("table"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert name not in attributes or attributes[name] in ids
        if (attributes.get("href") or "").startswith("#"):
            assert attributes["href"][1:] in ids
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_section_with_data_is_there_and_no_other(page: Reader) -> None:
    anchors = [attributes["id"] for attributes in page.all("section") if attributes.get("class") == "part"]
    first = ["ranking", "failures", "causes", "modules", "training", "similarity"]
    expected = [*first, "timesteps", "taps", "bytes", "sweep", "data", "store", "provenance", "recipe"]
    assert anchors == expected


def test_summary_and_threshold_are_written(run: Run) -> None:
    run.report()
    lines = (run.folder / "results/report/summary.txt").read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("mAP 41.2")
    assert PAGE in lines[-1]
    threshold = json.loads((run.folder / "results/train/head-similarity.json").read_text())
    assert threshold["false_match_rate"] <= threshold["wanted_false_match_rate"] == 0.01
    assert -1 <= threshold["threshold"] <= 1


def test_a_query_with_nobody_to_find_shows_what_was_found(run: Run) -> None:
    path = run.folder / "results/evaluate/per_query.parquet"
    names = pq.read_table(path)["query_id"].to_pylist()
    run.table("results/evaluate/per_query.parquet", {"query_id": names, "ap": [None] * (len(names) - 1) + [0.25]})
    metrics = json.loads((run.folder / "results/evaluate/metrics.json").read_text())
    metrics["search"]["queries_without_positives"] = len(names) - 1
    del metrics["causes"]
    run.write("results/evaluate/metrics.json", metrics)
    run.report()
    page = Reader((run.folder / PAGE).read_text())
    text = " ".join("".join(page.text).split())
    assert text.count("nobody annotated to be found") == run.params.report.queries - 1
    assert any("unjudged" in (image["alt"] or "") for image in page.all("img"))
    assert "over 1 queries" in text


def test_the_recipe_is_that_of_the_head_which_was_scored(run: Run) -> None:
    """Trained with --set, then reported without: params no longer say what the head is."""
    trained = json.loads(json.dumps(asdict(run.params.train)))
    save_head(run, ModelConfig(**SMALL, msfrn=None, sfan=None), {"training": trained, "scenes": 5})
    run.report()
    plain = " ".join("".join(Reader((run.folder / PAGE).read_text()).text).split())
    assert "was not trained as the parameters now say" not in plain
    assert "learned from 5 scenes" in plain
    trained["lr"] = 0.125
    trained["model"]["dgrpn"] = None
    save_head(run, ModelConfig(**SMALL, msfrn=None, sfan=None), {"training": trained, "scenes": 5})
    run.report()
    other = " ".join("".join(Reader((run.folder / PAGE).read_text()).text).split())
    assert "was not trained as the parameters now say (train.lr was 0.125" in other
    assert "lr0.125" in re.sub(r"\s", "", other)


def test_the_same_results_give_the_same_page(run: Run) -> None:
    run.report()
    first = (run.folder / PAGE).read_bytes()
    run.report()
    assert (run.folder / PAGE).read_bytes() == first
    assert len(first) < 1e6


def test_without_evaluation_the_command_that_is_missing_is_named(run: Run) -> None:
    (run.folder / "results/evaluate/metrics.json").unlink()
    with pytest.raises(NotThereError, match="diffps evaluate"):
        run.report()
    assert not (run.folder / PAGE).exists()


def test_further_galleries_have_a_table(run: Run) -> None:
    path = run.folder / "results/evaluate/metrics.json"
    scores = json.loads(path.read_text())
    scores["also"] = {"4000": {"map": 0.123, "top1": None, "queries": 6}}
    path.write_text(json.dumps(scores))
    run.report()
    page = Reader((run.folder / PAGE).read_text())
    assert "galleries" in [attributes.get("id") for attributes in page.all("section")]
    assert {"4000", "12.3 %"} <= set(page.text)


def test_both_views_count_into_the_break_even(run: Run) -> None:
    for kind, name in (("aaaa", "encode/train"), ("bbbb/t0", "extract/train")):
        folder = run.folder / "data/features/receipts/train"
        (folder / "hflip" / kind).mkdir(parents=True)
        shutil.copy(folder / "identity" / kind / "0.0.json", folder / "hflip" / kind)
        for path in (run.folder / "data/manifests" / name).rglob("*.json"):
            other = (
                path.with_name("hflip.json")
                if path.name == "identity.json"
                else Path(str(path).replace("identity", "hflip"))
            )
            other.parent.mkdir(parents=True, exist_ok=True)
            other.write_text(path.read_text().replace("/identity/", "/hflip/"))
    cost = measure_cost(run.evidence)
    assert cost.train_seconds == 18
    assert cost.live_epoch == 9
    assert cost.paid_after == pytest.approx(18 / (9 - 0.2))


def test_a_run_without_a_store_says_so(run: Run) -> None:
    for name in ("features", "manifests", "inputs"):
        shutil.rmtree(run.folder / "data" / name, ignore_errors=True)
    run.report()
    assert "read its features live" in (run.folder / PAGE).read_text()


def test_a_run_that_found_nothing_still_has_its_page(run: Run) -> None:
    for name in ("detections", "ranking"):
        path = run.folder / f"results/evaluate/{name}.parquet"
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    run.report()
    text = (run.folder / PAGE).read_text()
    assert "Missed persons" in text
    assert "Nobody annotated" not in text
    assert 'id="similarity"' not in text


def test_a_run_without_sweep_training_curves_and_times_still_has_its_page(run: Run) -> None:
    for name in ("results/sweep/table.parquet", "results/train/losses.csv", "results/train/metrics.json"):
        (run.folder / name).unlink()
    for receipt in (run.folder / "data/features/receipts").rglob("*.json"):
        receipt.write_text('{"info": {}}')
    run.report()
    text = (run.folder / PAGE).read_text()
    assert "what it saved is not known" in text
    assert 'id="sweep"' not in text


def test_without_annotated_persons_no_box_is_a_false_alarm(run: Run) -> None:
    path = run.folder / "data/index/annotations.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    run.report()
    text = (run.folder / PAGE).read_text()
    for word in ("false alarm", "etection AP", "Nobody annotated", "nobody is annotated"):
        assert word not in text, word
    assert "etection" not in (run.folder / "results/report/summary.txt").read_text()


def test_a_page_of_many_pictures_stays_below_two_megabytes(run: Run) -> None:
    rng = np.random.default_rng(0)
    for path in (run.folder / "images").iterdir():
        noise = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    run.change("report", queries=4, results=8)
    run.report()
    assert (run.folder / PAGE).stat().st_size < 2_000_000

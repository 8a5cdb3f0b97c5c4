"""One person searched in a folder of pictures, or in the test split; the answer in words, as a page and as a file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.config_data import IndexConfig
from stages.job import Job, Runtime

if TYPE_CHECKING:
    from stages.finding.searcher import Searcher

Format = Literal["csv", "json", "parquet", "coco"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRequest:
    """What `diffps search` was asked.

    ``query``: a picture; None only where a page is served. ``folder``: the pictures that are searched; None: the test
    split of ``index`` as `diffps evaluate` left it. ``box``: x, y, width, height; ``person`` from 1. ``also``: more
    pictures of the person. ``head``, ``revision``, ``checkpoint``, ``keep_features``, ``anyway``: see
    ``Searcher.from_pretrained``.
    """

    query: Path | None
    folder: Path | None
    index: IndexConfig = field(default_factory=IndexConfig)
    box: tuple[float, ...] | None = None
    person: int | None = None
    also: Sequence[Path] = ()
    head: str = "results/train/head"
    revision: str | None = None
    checkpoint: str | None = None
    top: int = 20
    promise: float = 0.01
    keep_features: bool = False
    anyway: bool = False
    format: Format | None = None


def run(request: SearchRequest, runtime: Runtime, job: Job) -> None:
    """Answer, and write results/search/index.html with the pictures inside; and hits.<format> where one is asked for.

    Raises DiffPSError and CacheError for what the user can mend, StoppedError.
    """
    from cache.files import write_bytes, write_text
    from diffps.errors import ConfigError
    from diffps.search.answer import check_promise
    from stages.finding.meant import SeveralPeopleError
    from stages.finding.output import write_answer
    from stages.finding.shown import answer_lines, numbered
    from stages.finding.web.page import finished_search
    from stages.places import SEARCH

    if request.query is None:
        raise ConfigError("search: name the picture that shows the person, or --serve a page")
    check_promise(request.promise)
    searcher = _searcher(request, runtime, job)
    if request.folder is None:
        _add(searcher, request)
    else:
        searcher.check(request.folder)
    try:
        # A query that is none is known at once, and a folder may take hours.
        asked = searcher.ask(request.query, box=request.box, person=request.person, also=request.also)
    except SeveralPeopleError as error:
        write_bytes(SEARCH / "people.jpg", numbered(error.photo.pixels, error.people.boxes))
        raise ConfigError(f"{error} ({SEARCH / 'people.jpg'} has their numbers)") from error
    if request.folder is not None:
        _add(searcher, request)
    answer = searcher.find(asked, request.top, request.promise)
    for line in answer_lines(answer):  # not by the job, which keeps a log: whom somebody looks for is nobody's business
        print(line)
    page = SEARCH / "index.html"
    write_text(page, finished_search(searcher, asked, answer))
    job.say(f"{page}: the same with pictures")
    if request.format is not None:
        path = SEARCH / f"hits.{'coco.json' if request.format == 'coco' else request.format}"
        sizes = {name: (int(h), int(w)) for name, (h, w) in zip(searcher.gallery.names, searcher.sizes, strict=True)}
        write_answer(path, answer, sizes)
        job.say(f"{path}: written")


def serve(request: SearchRequest, runtime: Runtime, job: Job) -> None:
    """A page on this machine, until the job is asked to stop: click anybody, or choose a picture and draw a box."""
    import threading
    import time

    from stages.finding.web.server import SearchServer

    searcher = _searcher(request, runtime, job)
    _add(searcher, request)
    with SearchServer(searcher) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        job.say(f"open {server.address} on this machine; Ctrl-C ends it")
        while not job.stopping:
            time.sleep(0.2)
        server.shutdown()


def _searcher(request: SearchRequest, runtime: Runtime, job: Job) -> "Searcher":
    from diffps.errors import ConfigError
    from stages.finding.searcher import Searcher

    if request.keep_features and request.folder is None:
        raise ConfigError("--keep-features: the test split's are in the store already; name a folder with --in")
    return Searcher.from_pretrained(
        request.head,
        revision=request.revision,
        checkpoint=request.checkpoint,
        keep_features=request.keep_features,
        anyway=request.anyway,
        max_pixels=request.index.max_pixels,
        runtime=runtime,
        job=job,
    )


def _add(searcher: "Searcher", request: SearchRequest) -> None:
    from stages.places import EVALUATE, images_root
    from stages.together import index_folder

    if request.folder is None:
        searcher.add_evaluated(index_folder(), EVALUATE, images_root(request.index.root))
    else:
        searcher.add(request.folder)

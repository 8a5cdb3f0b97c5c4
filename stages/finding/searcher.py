"""Find one person: a head, the pictures that are searched with it, and the questions that it answers."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from diffps.errors import ConfigError, DatasetError, ImageError
from diffps.images import MAX_PIXELS, load_image
from diffps.names import from_text
from diffps.records import Detections
from diffps.search.answer import PROMISE, Answer, SearchedGallery, check_promise, find
from diffps.search.calibration import Calibration
from stages.finding.embedder import Embedder, SearchHead
from stages.finding.finders import FreshFinder, KeptFinder
from stages.finding.folders import FOUND, Finder, gallery_place, update_gallery
from stages.finding.gallery_files import LoadedGallery
from stages.finding.meant import CANDIDATE, SeveralPeopleError, box_meant
from stages.finding.photos import Photo, require_drawn
from stages.finding.prepared import evaluated_gallery
from stages.finding.web.service import Asked, DrawnBox
from stages.head.calibrated import read_calibrations
from stages.head.saved import head_digest
from stages.head.travel import find_head
from stages.job import Job, QuietJob, Runtime
from stages.places import GALLERIES


class _Searched(NamedTuple):
    """All galleries as one: images by their files."""

    gallery: SearchedGallery
    sizes: NDArray[np.int32]
    digests: NDArray[np.uint8]
    files: list[Path]


class Searcher:
    """A trained head over pictures that were added. One call at a time.

    >>> searcher = Searcher.from_pretrained("results/train/head")  # doctest: +SKIP
    >>> searcher.add("photos/")  # doctest: +SKIP
    >>> answer = searcher.search("query.jpg", box=(120, 80, 60, 190))  # doctest: +SKIP
    """

    def __init__(
        self,
        head: SearchHead,
        *,
        calibrations: Sequence[Calibration] = (),
        galleries: Path = GALLERIES,
        keep_features: bool = False,
        anyway: bool = False,
        max_pixels: int = MAX_PIXELS,
        runtime: Runtime | None = None,
        job: Job | None = None,
    ) -> None:
        self._head, self._calibrations, self._galleries, self._anyway = head, calibrations, galleries, anyway
        self._keep_features = keep_features
        self._digest, self._max_pixels = head_digest(head.folder), max_pixels
        self._runtime, self._job = runtime or Runtime(), job or QuietJob()
        self._parts: dict[Path, LoadedGallery] = {}

    @classmethod
    def from_pretrained(
        cls,
        head: str | Path,
        *,
        revision: str | None = None,
        checkpoint: str | None = None,
        galleries: str | Path = GALLERIES,
        keep_features: bool = False,
        anyway: bool = False,
        max_pixels: int = MAX_PIXELS,
        runtime: Runtime | None = None,
        job: Job | None = None,
    ) -> Self:
        """The head in a folder or of a hub id at ``revision``; it knows its checkpoint, canvas, pass and reading.

        ``checkpoint``: a folder or hub id that holds the checkpoint it names. ``galleries``: where what is found in
        added pictures is kept; with ``keep_features`` their features too, in the store. ``anyway``: a head that was
        trained on drawn scenes may be shown photographs, where its answers mean nothing. The backbone is loaded when it
        is first needed. Raises CheckpointError, CalibrationError.
        """
        folder = find_head(str(head), revision)
        return cls(
            SearchHead.open(folder, checkpoint),
            calibrations=read_calibrations(folder),
            galleries=Path(galleries),
            keep_features=keep_features,
            anyway=anyway,
            max_pixels=max_pixels,
            runtime=runtime,
            job=job,
        )

    def add(self, folder: str | Path) -> None:
        """Search the pictures below ``folder`` too. What is new there is computed and kept, what is gone forgotten.

        Raises DatasetError for a folder without pictures, ImageError for photographs that the head is not for.
        """
        root = self.check(folder)
        place = gallery_place(self._galleries, root, self._digest)
        size = self._head.searcher.config.embedding.size
        gallery = update_gallery(root, place, self._digest, size, self._finder(root), self._job, self._max_pixels)
        self._keep(root, gallery)

    def check(self, folder: str | Path) -> Path:
        """What :meth:`add` raises at once, before anything is loaded."""
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise DatasetError(f"{root}: no such folder of pictures")
        self._require_fitting(root)
        return root

    def add_evaluated(self, index: Path, evaluated: Path, root: Path) -> None:
        """Search the test split of ``index`` too, whose files lie below ``root``, as `diffps evaluate` left it.

        Raises ConfigError where this head was not evaluated there.
        """
        self._require_fitting(root)
        self._keep(root, evaluated_gallery(index, evaluated, self._digest))

    def search(
        self,
        query: str | Path,
        *,
        box: Sequence[float] | None = None,
        person: int | None = None,
        also: Sequence[str | Path] = (),
        top: int = 20,
        promise: float = PROMISE,
    ) -> Answer:
        """The most similar people in all pictures added, and whether they are similar enough to mean anything.

        ``box``: x, y, width, height of the person in the query, in its pixels as displayed; without one ``person`` says
        which of those found, from 1. ``also``: more pictures, of this person alone. ``promise``: the share of strangers
        for whom somebody is taken. Raises SeveralPeopleError, ConfigError, ImageError.
        """
        check_promise(promise)
        return self.find(self.ask(query, box=box, person=person, also=also), top, promise)

    def ask(
        self,
        query: str | Path,
        *,
        box: Sequence[float] | None = None,
        person: int | None = None,
        also: Sequence[str | Path] = (),
    ) -> list[DrawnBox]:
        """The person in the pictures that is meant, see :meth:`search`."""
        asked = [self._asked(query, box, person)]
        for each in also:
            try:
                asked.append(self._asked(each))
            except SeveralPeopleError as error:
                many = len(error.people)
                raise ConfigError(f"{each}: {many} people are in it; cut out the one that is meant") from error
            if any(asked[-1].photo.digest == known.photo.digest for known in asked[:-1]):
                raise ConfigError(f"{each}: shows what another picture of the person shows; leave it out")
        return asked

    def _asked(self, query: str | Path, box: Sequence[float] | None = None, person: int | None = None) -> DrawnBox:
        path = Path(query).expanduser()
        photo = Photo.open(path, self._max_pixels)
        self._require_fitting(path)
        if box is not None and person is not None:
            raise ConfigError("--person and --box both say who is meant; give one of them")
        if box is not None:
            return DrawnBox(photo, photo.box(box))
        return DrawnBox(photo, box_meant(photo, self._detect(photo, CANDIDATE), person))

    @property
    def gallery(self) -> SearchedGallery:
        """All boxes that are searched."""
        return self._searched.gallery

    @property
    def sizes(self) -> NDArray[np.int32]:
        """(m, 2) height and width of the images that are searched, as displayed."""
        return self._searched.sizes

    def picture(self, image: int) -> NDArray[np.uint8]:
        """The pixels of an image that is searched, as displayed. Raises ImageError where they are no longer there."""
        return load_image(self._searched.files[image], max_pixels=self._max_pixels)

    def detect(self, photo: Photo) -> Detections:
        """The people in a picture that somebody brought, boxes in its pixels."""
        if self._head.of_drawings and not self._anyway and not len(self._images_of(photo.digest)):
            raise ImageError(
                "This head was trained on drawn scenes, and its answers on photographs mean nothing; take a picture of "
                "the gallery, or start the page with --anyway."
            )
        return self._detect(photo, FOUND)

    def find(self, asked: Sequence[Asked], top: int = 20, promise: float = PROMISE) -> Answer:
        """Search the person that boxes of the gallery, by row, or of other pictures show."""
        gallery = self.gallery
        queries, own = [], []
        for part in asked:
            if isinstance(part, DrawnBox):
                queries.append(self._embedder.embed(self._embedder.place(part.photo), part.box[None])[0])
                for image in self._images_of(part.photo.digest):
                    own += gallery.rows_at(gallery.names[image], part.box).tolist()
            else:
                queries.append(gallery.embedding(part).astype(np.float32))
                own.append(part)
        return find(
            np.stack(queries),
            gallery,
            top=top,
            own=np.array(own, np.int64),
            calibrations=self._calibrations,
            promise=promise,
        )

    def _finder(self, folder: Path) -> Finder:
        if self._keep_features:
            return KeptFinder(self._head, folder, self._runtime, self._max_pixels)
        canvas = self._head.searcher.canvas
        return FreshFinder(folder, canvas, lambda: self._embedder, self._runtime, self._max_pixels)

    @cached_property
    def _embedder(self) -> Embedder:
        return Embedder(self._head, self._runtime)

    @cached_property
    def _searched(self) -> _Searched:
        if not self._parts:
            raise ConfigError("search: there is nothing to search; add a folder of pictures first")
        parts = list(self._parts.items())
        files = [root / from_text(name) for root, part in parts for name in part.searched.names]
        starts = np.cumsum([0, *(len(part.searched.names) for _, part in parts)])
        images = [part.searched.images + np.int32(start) for start, (_, part) in zip(starts[:-1], parts, strict=True)]
        gallery = SearchedGallery(
            embeddings=[rows for _, part in parts for rows in part.searched.embeddings],
            boxes=np.concatenate([part.searched.boxes for _, part in parts]),
            scores=np.concatenate([part.searched.scores for _, part in parts]),
            images=np.concatenate(images),
            names=[str(root / name) for root, part in parts for name in part.searched.names],
        )
        sizes, digests = (np.concatenate([getattr(part, name) for _, part in parts]) for name in ("sizes", "digests"))
        return _Searched(gallery, sizes, digests, files)

    def _keep(self, root: Path, gallery: LoadedGallery) -> None:
        self._parts[root] = gallery
        self.__dict__.pop("_searched", None)

    def _detect(self, photo: Photo, score_threshold: float) -> Detections:
        return self._embedder.detect([self._embedder.place(photo)], score_threshold)[0]

    def _images_of(self, digest: str) -> list[int]:
        """Numbers of the images with this content."""
        wanted = np.frombuffer(bytes.fromhex(digest), np.uint8)
        found: list[int] = np.flatnonzero((self._searched.digests == wanted).all(1)).tolist()
        return found

    def _require_fitting(self, path: Path) -> None:
        if self._head.of_drawings and not self._anyway:
            require_drawn(path)

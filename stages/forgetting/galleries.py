"""Galleries of searched folders, and answers: what heads found in pictures, by their content."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from stages.finding.folders import forget_content
from stages.finding.gallery_files import MANIFEST, load_gallery
from stages.forgetting.chosen import Chosen
from stages.forgetting.remembered import RESULTS, Memory, delete
from stages.places import GALLERIES


def in_galleries(chosen: Chosen, galleries: Path = GALLERIES) -> Iterator[Memory]:
    """Galleries that hold an image of ``chosen``, and the answers, which may show any."""
    for manifest in sorted(galleries.glob(f"*/{MANIFEST}")):
        held = load_gallery(manifest.parent)
        if any(held.named(digest) is not None for digest in chosen.digests):
            yield Memory(manifest.parent, "boxes and embeddings found in them", partial(_forget, galleries, chosen))
    answers = RESULTS / "search"
    if answers.is_dir() and any(answers.iterdir()):
        yield Memory(answers, "answers with pictures", lambda: delete(answers))


def _forget(galleries: Path, chosen: Chosen) -> None:
    forget_content(galleries, chosen.digests)

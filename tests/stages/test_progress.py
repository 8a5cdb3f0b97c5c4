"""What a bar shows: every stage ends at the number it said, no more and no less."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stages import encode, evaluate, extract, index, train
from stages.job import QuietJob
from tests.world import Project


@dataclass
class Bar:
    label: str
    total: int
    done: list[int] = field(default_factory=list)

    def advance(self, done: int = 1, nbytes: int = 0, note: str = "") -> None:
        self.done.append(done)


class Counted(QuietJob):
    def __init__(self) -> None:
        super().__init__()
        self.bars: list[Bar] = []

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Bar]:
        self.bars.append(Bar(label, total))
        yield self.bars[-1]


def test_bars_end_where_they_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, job = Project(tmp_path, monkeypatch), Counted()
    changes = {"encoding": "float16", "transcode": ["int8"]}
    project.run(index, encode, extract, train, evaluate, job=job, extract=changes)
    expected = {"index", "encode", "extract", "transcode", "train", "evaluate", "baseline"}
    assert expected <= {bar.label for bar in job.bars}
    for bar in job.bars:
        assert sum(bar.done) == bar.total > 0, bar.label
        assert min(bar.done) >= 0, bar.label

"""Parts of a probe on disk, and what a prober does where a batch does not fit or a number is none."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cache.errors import DamagedError
from diffps.errors import DivergedError
from diffps.probe.part import Part
from stages.probing.parts import ProbeState
from stages.probing.prober import Prober, check_finite
from stages.probing.setting import Stretch


def stretch(number: int, phase: Any = "fit") -> Stretch:
    return Stretch(phase, number, range(10 * number, 10 * number + 10))


class Small(Prober):
    """Takes batches of ``most`` scenes; what it finds are ``values``."""

    def __init__(self, folder: Path, batch: int, most: int, values: Any = (1.0, 2.0)) -> None:
        extract = SimpleNamespace(dtype="float16")
        self._plan: Any = SimpleNamespace(folder=folder, timesteps=(0, 50), unet=SimpleNamespace(extract=extract))
        self.batch, self._most, self.tried, self.asked = batch, most, [], []  # type: ignore[var-annotated]
        self._values = np.array(values)

    def _parts(self, stretch: Stretch, timesteps: Any) -> dict[int, Part]:
        self.tried.append(self.batch)
        if self.batch > self._most:
            raise torch.OutOfMemoryError
        self.asked.append(list(timesteps))
        return {step: Part(sums={"a/xx": self._values + step}, rows={"scenes": np.arange(2)}) for step in timesteps}


def test_a_batch_that_does_not_fit_is_halved_down_to_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prober = Small(tmp_path, 8, 3)
    assert prober.probe(stretch(2)) == 10
    assert (prober.tried, prober.batch) == ([8, 4, 2], 2)
    said = "out of memory: scenes 21 to 30 again in batches of"
    assert caplog.messages == [f"{said} 4", f"{said} 2"]
    alone = Small(tmp_path, 2, 0)
    with pytest.raises(torch.OutOfMemoryError):
        alone.probe(stretch(3))
    assert alone.tried == [2, 1]


def test_a_stretch_is_probed_where_it_is_missing(tmp_path: Path) -> None:
    prober = Small(tmp_path, 4, 4)
    prober.probe(stretch(0))
    (tmp_path / "t50/fit-00000.npz").unlink()
    prober.probe(stretch(0))
    prober.probe(stretch(0))
    assert prober.asked == [[0, 50], [50]]
    assert prober.tried == [4, 4]


def test_sums_are_added_in_order_and_none_twice(tmp_path: Path) -> None:
    state = ProbeState(tmp_path)
    assert state.sums() == {}
    for number in (0, 2):
        state.keep(stretch(number), Part(sums={"a": np.array([1.0 + number])}, rows={"r": np.array([number])}))
    state.fold()
    assert state.sums()["a"].tolist() == [1.0]  # the second is missing
    state.keep(stretch(1), Part(sums={"a": np.array([10.0])}, rows={"r": np.array([1])}))
    for _ in range(2):
        state.fold()
        assert state.sums()["a"].tolist() == [14.0]
    assert sorted(path.name for path in tmp_path.glob("sums*")) == ["sums.npz"]
    state.keep(stretch(0, "score"), Part(rows={"r": np.array([7]), "s": np.array([8])}))
    rows = state.rows()
    assert (list(rows), len(rows)) == (["r", "s"], 2)
    assert (rows["r"].tolist(), rows["s"].tolist()) == ([0, 1, 2, 7], [8])
    with pytest.raises(KeyError):
        _ = rows["t"]
    assert state.has(stretch(0, "score"))
    assert not state.has(stretch(3))
    (tmp_path / "fit-00000.npz").write_bytes(b"torn")
    with pytest.raises(DamagedError, match=f"delete {tmp_path}, `diffps probe`"):
        state.rows()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_overflowed_stop_the_probe_and_other_numbers_may_be_none(value: float) -> None:
    array = np.array([1.0, value])
    for part in (Part(sums={"a/tap/all": array}), Part(rows={"a/tap/vectors": array})):
        with pytest.raises(DivergedError, match="^a/tap: NaN or infinity in float16; set extract.dtype to bfloat16 or"):
            check_finite(part, "float16")
    check_finite(Part(sums={"tap/all": np.ones(2), "tap/xy": array}, rows={"tap/scores": array}), "float16")

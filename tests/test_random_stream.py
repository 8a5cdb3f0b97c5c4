"""A stream's numbers are its own, and whoever draws outside of it does not notice."""

import pytest
import torch

from diffps.random_stream import RandomStream

CPU = torch.device("cpu")


def test_a_stream_goes_on_where_it_stopped() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(9)
    outer = torch.get_rng_state()
    stream = RandomStream(5, CPU)
    assert torch.equal(torch.get_rng_state(), outer)
    found = []
    for _ in range(2):
        with stream.active():
            found.append(torch.rand(2))
        assert torch.equal(torch.get_rng_state(), outer)
    assert torch.equal(torch.cat(found), expected)
    assert set(stream.state) == {"cpu"}


def test_an_error_gives_the_outer_state_back() -> None:
    stream = RandomStream(5, CPU)
    outer, own = torch.get_rng_state(), stream.state["cpu"].clone()

    def fail() -> None:
        with stream.active():
            torch.rand(2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(torch.get_rng_state(), outer)
    assert torch.equal(stream.state["cpu"], own)


def test_a_gpus_generator_is_kept_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"now": torch.tensor([0])}
    device = torch.device("cuda", 1)

    def read(of: torch.device) -> torch.Tensor:
        assert of == device
        return states["now"]

    def write(state: torch.Tensor, of: torch.device) -> None:
        assert of == device
        states["now"] = state

    monkeypatch.setattr(torch.cuda, "get_rng_state", read)
    monkeypatch.setattr(torch.cuda, "set_rng_state", write)
    stream = RandomStream(5, device)
    assert set(stream.state) == {"cpu", "cuda"}
    stream.state["cuda"] = torch.tensor([7])
    with stream.active():
        assert states["now"].item() == 7
        states["now"] = torch.tensor([8])
    assert states["now"].item() == 0
    assert stream.state["cuda"].item() == 8
    # A state of a GPU is left aside where there is none.
    other = RandomStream(5, CPU)
    other.state = {**other.state, "cuda": torch.tensor([9])}
    with other.active():
        assert states["now"].item() == 0

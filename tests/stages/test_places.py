"""Where photographs and the store are looked for, in a checkout and in DVC's temporary experiments."""

from pathlib import Path

import pytest

from stages.places import images_root, store_root


def test_a_temporary_experiment_uses_the_checkout_s_photographs_unless_it_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, checkout = tmp_path / "experiment", tmp_path / "checkout"
    (experiment / "data/own").mkdir(parents=True)
    monkeypatch.chdir(experiment)
    monkeypatch.setenv("DVC_ROOT", str(checkout))
    assert images_root("data/own") == Path("data/own")
    assert images_root("data/prw") == checkout / "data/prw"
    assert images_root(str(tmp_path / "elsewhere")) == tmp_path / "elsewhere"
    assert store_root("data/features") == checkout / "data/features"
    monkeypatch.delenv("DVC_ROOT")
    assert images_root("data/prw") == Path("data/prw")
    assert store_root("data/features") == Path("data/features")

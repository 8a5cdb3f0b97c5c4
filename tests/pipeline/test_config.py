import shutil
from pathlib import Path

import pytest

from diffps.errors import ConfigError
from pipeline.config import load_params
from stages.job import Runtime
from stages.params import Params, override
from tests.world import write_params

ROOT = Path(__file__).parents[2]
PRESETS = sorted(path.name for path in (ROOT / "presets").glob("*.yaml"))
MAP = "up-level3-repeat0-vit-block0-cross-map"


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_params(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_complete_and_consistent(name: str) -> None:
    params, runtime = load_params(ROOT / "presets" / name)
    assert isinstance(params, Params)
    assert isinstance(runtime, Runtime)


def test_the_params_of_a_fresh_clone_are_the_demo() -> None:
    """But for the first line, which says where the schema lies."""
    params, demo = ((ROOT / name).read_text().splitlines()[1:] for name in ("params.yaml", "presets/demo.yaml"))
    assert params == demo


def test_a_typo_is_refused_with_the_nearest_name(params_file: Path) -> None:
    edit(params_file, "\n  epochs:", "\n  epoch:")
    assert refusal(params_file) == f"{params_file}: train.epoch is not a parameter; nearest: train.epochs"


def test_an_unknown_section_is_refused(params_file: Path) -> None:
    edit(params_file, "\nreport:", "\nreports:")
    assert "reports is not a parameter; nearest: report" in refusal(params_file)


def test_a_missing_section_is_named(params_file: Path) -> None:
    text = params_file.read_text()
    start, end = text.index("\nextract:"), text.index("\ntrain:")
    params_file.write_text(text[:start] + text[end:])
    assert refusal(params_file) == f"{params_file}: extract is missing"


@pytest.mark.parametrize(
    "text", ["train: [1, 2", "train: {a: 1}\ntrain: {a: 2}\n", "a: b: c\n", "\tx: 1\n", "x: \x01", "x: 2020-13-01"]
)
def test_what_is_no_yaml_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert "not valid YAML" in refusal(path)


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just words\n"])
def test_yaml_without_sections_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert "expected sections" in refusal(path)


def test_no_file_and_no_text_are_refused(tmp_path: Path) -> None:
    assert "give a params file with --params" in refusal(tmp_path / "absent.yaml")
    (tmp_path / "image.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    assert "not UTF-8" in refusal(tmp_path / "image.yaml")


def test_set_is_typed_like_the_file(params_file: Path) -> None:
    params, _ = load_params(params_file, ["train.lr=3e-4", "extract.timesteps=[0, 50]", "train.model.dgrpn=null"])
    assert params.train.lr == 3e-4
    assert params.extract.timesteps == (0, 50)
    assert params.train.model.dgrpn is None


def test_set_of_a_section_changes_what_it_names(params_file: Path) -> None:
    params, runtime = load_params(params_file, ["train.model.dgrpn=null"])
    assert load_params(params_file, ["train.model={dgrpn: null}"]) == (params, runtime)
    assert load_params(params_file, ["train={model: {dgrpn: null}}"]) == (params, runtime)


def test_the_last_set_of_a_key_wins(params_file: Path) -> None:
    assert load_params(params_file, ["train.seed=2", "train.seed=3"])[0].train.seed == 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.lr", "expected key=value"),
        ("train={lrr: 1}", "train.lrr is not a parameter; nearest: train.lr"),
        ("train.lrr=1", "train.lrr is not a parameter; nearest: train.lr"),
        ("lr=1", "lr is not a parameter; nearest: train.lr"),
        ("train.lr=fast", "train.lr: input should be a valid number, found 'fast'"),
        ("train.epochs=2.5", "train.epochs: input should be a valid integer"),
        ("train.epochs=0", "epochs 0: must be at least 1"),
        ("train.source=lively", "train.source: input should be 'cached' or 'live', found 'lively'"),
        ("extract.timesteps=[0", "not valid YAML"),
        ("encode.canvas=[250, 256]", "must be a positive multiple of 64; nearest are 192 and 256"),
    ],
)
def test_a_wrong_set_is_refused(params_file: Path, setting: str, message: str) -> None:
    assert message in refusal(params_file, setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "train.taps.detection=up-level3-repeat0-vit-block0-self-kk",
            "nearest: up-level3-repeat0-vit-block0-self-k",
        ),
        (f"train.taps.guidance={MAP}.persn", f"nearest: {MAP}.person"),
        ("train.taps.level1=[up-level1-repeat1-vit-block0-self-q]", "is not among what extract provides"),
        ("train.timestep=50", "train.timestep 50 is not in extract.timesteps [0]"),
        ("encode.views=[identity]", "train.flip cached needs the view hflip in encode.views"),
        ("extract.taps=[up-level3-repeat0-vit-block0-self-kk]", "up-level3-repeat0-vit-block0-self-k"),
    ],
)
def test_sections_that_contradict_each_other_are_refused_before_any_stage(
    params_file: Path, setting: str, message: str
) -> None:
    assert message in refusal(params_file, setting)


def test_an_override_is_checked_like_a_file() -> None:
    params, _ = load_params(ROOT / "params.yaml")
    assert override(params, {"train.model.dgrpn": None}, "variant x").train.model.dgrpn is None
    assert override(params, {}, "variant x") == params
    with pytest.raises(ConfigError, match="variant x: train.lrr is not a parameter; nearest: train.lr"):
        override(params, {"train.lrr": 1}, "variant x")


def test_contradicting_sections_are_named_once(tmp_path: Path) -> None:
    write_params(tmp_path, {"train": {"timestep": 7}})
    with pytest.raises(ConfigError, match=r"^\S*params.yaml: train.timestep 7 is not in extract.timesteps \[0\]$"):
        load_params(tmp_path / "params.yaml")

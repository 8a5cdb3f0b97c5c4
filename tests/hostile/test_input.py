"""What a stranger's file may not do: hang, allocate what it claims, leave its folder, or show a traceback."""

import json
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffps.errors import CheckpointError, ConfigError
from diffps.geometry import Canvas
from diffps.model import CONFIG_FILE, WEIGHTS_FILE, PersonSearcher, build_searcher
from pipeline.config import load_params
from stages.job import Runtime
from stages.params import override
from stages.sweeps.variants import read_variants
from stages.typed import parse_yaml
from tests.world import ROOT, SmallSource, small_params, write_params

BOMB = "a: &a [0, 0, 0, 0, 0, 0, 0, 0, 0]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name}\n  <<: [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
DOCUMENTS = {
    "aliases": BOMB,
    "merges": MERGES,
    "a list in itself": "a: &a [*a]\n",
    "a mapping in itself": "&a train: *a\n",
    "deep lists": "[" * 50_000 + "]" * 50_000,
    "deep mappings": "{a: " * 20_000 + "}" * 20_000,
    "deep blocks": "".join(f"{' ' * depth}a:\n" for depth in range(1000)),
    "two megabytes": "a: " + "b" * 2_000_000,
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_yaml_that_grows_or_never_ends_is_refused(tmp_path: Path, name: str) -> None:
    """In a child, which is given a second of processor time beside what it needs to start."""
    (tmp_path / "x.yaml").write_text(DOCUMENTS[name])
    script = (
        "import resource, sys, time\nfrom pipeline.config import load_params\nfrom pathlib import Path\n"
        "from diffps.errors import ConfigError\nimport ruamel.yaml, pydantic\n"
        "used = int(time.process_time()) + 3\nresource.setrlimit(resource.RLIMIT_CPU, (used, used))\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "try:\n    load_params(Path(sys.argv[1]))\nexcept ConfigError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x.yaml")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.count("\n") == 1
    assert "x.yaml" in done.stdout


def test_anchors_that_say_something_once_more_are_read() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: *a\nc: {<<: &d {x: 1}}\ne: *d\n", "x") == {
        "a": [1, 2],
        "b": [1, 2],
        "c": {"x": 1},
        "e": {"x": 1},
    }


NUMBERS = {
    "train.seed": ["1e23", "-1", "99999999999999999999"],
    "train.lr": [".inf", ".nan", "-1"],
    "train.batch": ["0", "1e400"],
    "runtime.readers": ["0", "-1", "100000"],
    "runtime.threads": ["-1"],
    "runtime.shard": ["0", "1e11", "100000000000"],
    "runtime.batch": ["-1"],
    "extract.seed": ["1e30", "-9223372036854775809"],
}


@pytest.mark.parametrize(("key", "text"), [(key, text) for key, texts in NUMBERS.items() for text in texts])
def test_numbers_out_of_range_are_named(tmp_path: Path, key: str, text: str) -> None:
    write_params(tmp_path)
    with pytest.raises(ConfigError, match=key.rpartition(".")[2]):
        load_params(tmp_path / "params.yaml", [f"{key}={text}"])


def numbers(section: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every field with numbers, and what it holds."""
    for each in fields(section):
        key, value = above + each.name, getattr(section, each.name)
        if is_dataclass(value):
            yield from numbers(value, f"{key}.")
        elif "int" in str(each.type) or "float" in str(each.type):
            yield key, value


def test_no_number_of_any_section_is_infinite_or_too_large() -> None:
    params, accepted, tried = small_params(), list[str](), 0
    for key, value in numbers(params):
        for number in (float("nan"), float("inf"), -float("inf"), 1e39, 2**70, -(2**70)):
            written = [number] * max(len(value), 1) if isinstance(value, tuple) else number
            tried += 1
            with suppress(ConfigError):
                override(params, {key: written}, "x.yaml")
                accepted.append(f"{key} = {written}")
    assert accepted == []
    assert tried > 400


@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", "", ".", "..", "a/b", "a\\b", "a\0b", "x" * 200, ".hidden", "a b"]
)
def test_names_stay_in_their_folders(tmp_path: Path, name: str) -> None:
    write_params(tmp_path)
    with pytest.raises(ConfigError, match=r"extract\.name"):
        load_params(tmp_path / "params.yaml", [f"extract.name={json.dumps(name)}"])


SWEEPS = {
    "variants: {../../x: {}}": "use letters",
    "variants: {/tmp/x: {}}": "use letters",
    f"variants: {{{'x' * 300}: {{}}}}": "longer than",
    "grid:\n"
    + "".join(f"  {key}: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" for key in "abcdefg"): "4,782,969 heads, more than 1,000",
    BOMB: "x.yaml",
}


@pytest.mark.parametrize("number", range(len(SWEEPS)))
def test_a_sweep_stays_in_its_folder_and_within_reason(here: Path, number: int) -> None:
    text, message = list(SWEEPS.items())[number]
    (here / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_variants(small_params({"sweep.file": "x.yaml"}))
    assert "\n" not in str(error.value)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("store", ["", " "])
def test_a_store_is_a_folder(store: str) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.store: names no folder"):
        Runtime(store=store)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    params, source = small_params(), SmallSource()
    words = torch.zeros(4, 64)
    made = build_searcher(params.train.model, params.train.taps, source.shapes, Canvas(64, 64), words, 4)
    folder = tmp_path_factory.mktemp("head") / "head"
    made.save_pretrained(folder, {})
    return folder


def copy(head: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (folder / name).write_bytes((head / name).read_bytes())
    return folder


LETTERS = b'0123456789-.e"[]{},:nul\x00\xff'
CLAIMS: dict[str, Any] = {
    "identities": 10**11,
    "words": [10**6, 10**6],
    "model.channels": 10**6,
    "model.head_channels": 4 * 10**6,
    "model.head_blocks": 10**9,
    "model.embedding.branches": 10**8,
    "model.oim.queue": 10**12,
    "model": None,
    "shapes": {"a": [1, 2, 3, 4]},
    "taps": [],
}


@pytest.mark.parametrize("key", CLAIMS)
def test_a_head_allocates_nothing_that_its_weights_do_not_have(head: Path, tmp_path: Path, key: str) -> None:
    """In a child that has a gigabyte beside what it needs to start."""
    folder = copy(head, tmp_path / "head")
    config = json.loads((folder / CONFIG_FILE).read_text())
    *sections, leaf = key.split(".")
    place = config
    for section in sections:
        place = place[section]
    place[leaf] = CLAIMS[key]
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as error:
        limited(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def limited(folder: Path) -> None:
    """Load a head where no gigabyte more can be had."""
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    try:
        PersonSearcher.from_pretrained(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def header(entries: dict[str, Any] | str, size: int | None = None) -> bytes:
    text = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text


def entry(start: Any, end: Any, shape: Any = (1,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


HEADERS = {
    "empty": b"",
    "a length of 2**63": header("{}", 2**63),
    "a length beyond the file": header("{}", 10**6),
    "no JSON": header("}{"),
    "deep": header("[" * 100_000),
    "negative offsets": header({"a": entry(-4, 0)}) + bytes(4),
    "huge offsets": header({"a": entry(0, 2**62)}) + bytes(4),
    "overlapping": header({"a": entry(0, 4), "b": entry(0, 4)}) + bytes(8),
    "float offsets": header({"a": entry(0.0, 4.0)}) + bytes(4),
    "a key twice": header('{"a": %s, "a": %s}' % ((json.dumps(entry(0, 4)),) * 2)) + bytes(8),
    "a shape of another size": header({"a": entry(0, 4, (10**9, 10**9))}) + bytes(4),
    "a negative shape": header({"a": entry(0, 4, (-1,))}) + bytes(4),
    "an unknown type": header({"a": entry(0, 4, dtype="F7")}) + bytes(4),
    "another head's": header({"a": entry(0, 4)}) + bytes(4),
}


@pytest.mark.parametrize("name", HEADERS)
def test_weights_with_a_hostile_header_are_one_line(head: Path, tmp_path: Path, name: str) -> None:
    folder = copy(head, tmp_path / "head")
    (folder / WEIGHTS_FILE).write_bytes(HEADERS[name])
    with pytest.raises(CheckpointError) as error:
        limited(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_any_config_is_loaded_or_refused_in_one_line(head: Path, tmp_path: Path) -> None:
    """A hundred and fifty mutations of its bytes."""
    folder, draws = copy(head, tmp_path / "head"), random.Random(0)
    whole, loaded, told = (folder / CONFIG_FILE).read_bytes(), 0, list[str]()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draws.randint(1, 3)):
            place = draws.randrange(len(data))
            data[place : place + draws.randint(0, 2)] = bytes(
                draws.choice(b'0123456789-.e"[]{},:nul\x00\xff') for _ in "ab"
            )
        (folder / CONFIG_FILE).write_bytes(bytes(data))
        try:
            PersonSearcher.from_pretrained(folder)
            loaded += 1
        except CheckpointError as error:
            told.append(str(error))
    assert len(told) + loaded == 150
    assert len(told) > 50
    assert not any("\n" in text for text in told)


def test_a_whole_head_is_loaded(head: Path, tmp_path: Path) -> None:
    folder = copy(head, tmp_path / "head")
    limited(folder)
    tensors = load_file(folder / WEIGHTS_FILE)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name][..., None]}, folder / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=f"{name} is .*, config.json says"):
        limited(folder)

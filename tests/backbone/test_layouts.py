"""Checkpoints in the layouts people have: each is found, is the same checkpoint, and gives the same model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffps.backbone.checkpoint import Checkpoint, load_checkpoint
from diffps.backbone.identity import current_name
from diffps.errors import CheckpointError
from tests.architecture.repository import ROOT
from tests.backbone.layouts import TEXT, UNET, hub_cache, shard, with_attention, write_original

COMMIT = "0123456789abcdef0123456789abcdef01234567"
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def _same_model(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.digests() == expected.digests()
    found.check_tensors()
    models = found.load_unet(torch.float32), found.load_vae(torch.float32), found.load_text_encoder()
    for part, model in zip(expected.digests(), models, strict=True):
        weights = expected.weights(part).tensors()
        assert all(torch.equal(value, weights[current_name(name)]) for name, value in model.state_dict().items())


def _halve(file: Path, suffix: str) -> None:
    """Replace a file of weights by its float16 variant."""
    target = file.with_name(file.name.replace(".safetensors", f"{suffix}.safetensors"))
    save_file({name: value.half() for name, value in load_file(file).items()}, target, {"format": "pt"})
    file.unlink()


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_folder_of_fp16_files_only_is_read(copy: Path, variant: str | None) -> None:
    whole = load_checkpoint(str(copy)).digests()
    for file in (UNET, VAE, TEXT):
        _halve(copy / file, ".fp16")
    halved = load_checkpoint(str(copy), variant=variant)
    halved.check_tensors()
    assert all(halved.digest(part) != whole[part] for part in whole)
    weights = load_file(copy / UNET.replace(".safetensors", ".fp16.safetensors"))
    unet = halved.load_unet(torch.float32)
    assert unet.dtype == torch.float32
    assert torch.equal(unet.conv_in.bias, weights["conv_in.bias"].float())


def test_a_variant_is_taken_where_it_is_there_and_named_where_not(copy: Path) -> None:
    plain = load_checkpoint(str(copy)).digests()
    shutil.copy(copy / UNET, copy / "keep")
    _halve(copy / UNET, ".fp16")
    shutil.copy(copy / "keep", copy / UNET)
    assert load_checkpoint(str(copy)).digests() == plain
    halved = load_checkpoint(str(copy), variant="fp16").digests()
    assert halved["unet"] != plain["unet"]
    assert halved["vae"] == plain["vae"]
    with pytest.raises(CheckpointError, match=r"no part has weights of the variant 'fp61'; there are fp16"):
        load_checkpoint(str(copy), variant="fp61")
    (copy / UNET).rename(copy / UNET.replace(".safetensors", ".non_ema.safetensors"))
    with pytest.raises(CheckpointError, match=r"variants fp16 and non_ema; name one \(encode.variant: fp16\)"):
        load_checkpoint(str(copy))


@pytest.mark.parametrize(("variant", "index"), [("", True), ("", False), ("fp16", True), ("fp16", False)])
def test_shards_are_the_same_checkpoint(checkpoint: Checkpoint, copy: Path, variant: str, index: bool) -> None:
    for file, count in ((UNET, 3), (VAE, 1), (TEXT, 2)):
        shard(copy / file, count, variant, index)
    sharded = load_checkpoint(str(copy))
    assert sharded.digests() == checkpoint.digests()
    sharded.check_tensors()


def test_shards_that_are_missing_or_lead_elsewhere_are_named(copy: Path, tmp_path: Path) -> None:
    first, second, _ = shard(copy / UNET, 3)
    second.rename(tmp_path / "second")
    with pytest.raises(CheckpointError, match="00002-of-00003.safetensors: a shard which is missing"):
        load_checkpoint(str(copy))
    index = copy / f"{UNET}.index.json"
    places = json.loads(index.read_text())["weight_map"]
    for wrong in ("../second", str(tmp_path / "second"), 3, {}):
        index.write_text(json.dumps({"weight_map": places | {"conv_in.bias": wrong}}))
        with pytest.raises(CheckpointError, match="weight_map names no files beside it"):
            load_checkpoint(str(copy))
    index.unlink()
    with pytest.raises(CheckpointError, match="2 of 3 shards of diffusion_pytorch_model; fetch the others"):
        load_checkpoint(str(copy))
    shutil.copy(first, second)
    with pytest.raises(CheckpointError, match="lies in .*00001-of-00003.safetensors too"):
        load_checkpoint(str(copy)).check_tensors("unet")


@pytest.mark.parametrize("open_clip", [False, True])
def test_a_file_in_the_original_layout_is_the_same_checkpoint(copy: Path, tmp_path: Path, open_clip: bool) -> None:
    with_attention(copy, 23 if open_clip else 2)
    published = load_checkpoint(str(copy))
    beside = tmp_path / "single"
    shutil.copytree(copy, beside, ignore=shutil.ignore_patterns("*.safetensors"))
    write_original(copy, beside / "v1-5.safetensors", open_clip)
    single = load_checkpoint(str(beside / "v1-5.safetensors"))
    _same_model(single, published)
    assert single.schedule == published.schedule
    replaced = load_checkpoint(str(copy), unet=str(beside / "v1-5.safetensors"))
    assert replaced.digests() == published.digests()
    with pytest.raises(CheckpointError, match=r"single holds single files; .*e.g. .*single/v1-5.safetensors"):
        shutil.rmtree(beside / "unet")
        (beside / "model_index.json").unlink()
        load_checkpoint(str(beside))


def test_a_file_in_the_original_layout_without_configs_says_what_is_wanted_beside_it(
    copy: Path, tmp_path: Path
) -> None:
    for width, home in ((768, "stable-diffusion-v1-5/stable-diffusion-v1-5"), (1024, "sd2-community")):
        key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
        save_file({key: torch.zeros(2, width)}, tmp_path / "sd.safetensors")
        with pytest.raises(CheckpointError, match=f"wanted beside it in .*unet/, vae/, .*tokenizer.*{home}") as caught:
            load_checkpoint(str(tmp_path / "sd.safetensors"))
        assert "\n" not in str(caught.value)
    save_file({"model.diffusion_model.x": torch.zeros(2)}, tmp_path / "sd.safetensors")
    with pytest.raises(CheckpointError, match="neither SD 1.x nor SD 2.x"):
        load_checkpoint(str(tmp_path / "sd.safetensors"))


def test_a_file_in_the_original_layout_that_lacks_a_part_or_a_weight(copy: Path) -> None:
    write_original(copy, copy / "sd.safetensors", open_clip=False)
    tensors = load_file(copy / "sd.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.startswith("first_stage_model.")}
    save_file(kept, copy / "no-vae.safetensors")
    with pytest.raises(
        CheckpointError, match=r"no-vae.safetensors holds .* original layout; expected the weights of a vae"
    ):
        load_checkpoint(str(copy / "no-vae.safetensors")).check_tensors()
    del tensors["model.diffusion_model.out.2.bias"]
    save_file(tensors, copy / "less.safetensors")
    with pytest.raises(CheckpointError, match="less.safetensors lacks 1 weights of the unet, e.g. conv_out.bias"):
        load_checkpoint(str(copy / "less.safetensors")).load_unet(torch.float32)
    tensors = {
        "model.diffusion_model.out.2.bias": torch.zeros(1),
        "first_stage_model.encoder.mid.attn_1.q.weight": torch.zeros(()),
    }
    save_file(tensors, copy / "odd.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(copy / "odd.safetensors")).check_tensors("vae")
    assert "\n" not in str(caught.value)


def test_a_hub_cache_is_read_as_a_path(checkpoint: Checkpoint, folder: Path, tmp_path: Path) -> None:
    repository = hub_cache(folder, tmp_path, "someone/sd", COMMIT)
    for path in (repository, repository / "snapshots", repository / "snapshots" / COMMIT):
        assert load_checkpoint(str(path)).digests() == checkpoint.digests()
    assert load_checkpoint(str(repository), revision=COMMIT[:7]).digests() == checkpoint.digests()
    assert load_checkpoint(str(folder), unet=str(repository)).digests() == checkpoint.digests()
    with pytest.raises(CheckpointError, match=f"no snapshot of v9 lies in this hub cache; there are {COMMIT}"):
        load_checkpoint(str(repository), revision="v9")
    with pytest.raises(CheckpointError, match="is a hub cache; name one of its folders: models--someone--sd"):
        load_checkpoint(str(tmp_path))
    (repository / "refs/main").unlink()
    assert load_checkpoint(str(repository)).digests() == checkpoint.digests()
    other = "f" * 40
    (repository / "snapshots" / other).mkdir()
    with pytest.raises(CheckpointError, match=f"no snapshot of main .* there are {COMMIT}, {other}"):
        load_checkpoint(str(repository))
    shutil.rmtree(repository / "blobs")
    with pytest.raises(CheckpointError, match="missing"):
        load_checkpoint(str(repository), revision=COMMIT)


def test_links_without_their_blobs_are_named(copy: Path) -> None:
    (copy / UNET).unlink()
    (copy / UNET).symlink_to("../../blobs/abc")
    with pytest.raises(
        CheckpointError, match="a link to ../../blobs/abc, which is missing; hub caches are copied whole"
    ):
        load_checkpoint(str(copy))


LOAD = (
    "import sys; from diffps.backbone.checkpoint import load_checkpoint; print(load_checkpoint(*sys.argv[1:]).folder)"
)


def _offline(cache: Path, *arguments: str) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    script = f"try:\n    {LOAD}\nexcept ValueError as error:\n    print(error)"
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_hub_id_is_found_in_the_cache_without_a_network(folder: Path, tmp_path: Path) -> None:
    repository = hub_cache(folder, tmp_path, "someone/sd", COMMIT)
    expected = f"{repository / 'snapshots' / COMMIT}\n"
    assert _offline(tmp_path, "someone/sd") == expected
    assert _offline(tmp_path, "someone/sd", COMMIT) == expected
    (repository / "refs/main").unlink()
    said = _offline(tmp_path, "someone/sd")
    assert f"its cache holds {COMMIT}, not all of main (encode.revision names one)" in said
    assert said.count("\n") == 1
    assert "no copy lies in its cache" in _offline(tmp_path, "nobody/sd")


def test_a_folder_that_is_not_there_is_fetched_from_its_repository_or_says_what_is_wanted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"models/sd: no such folder .*wanted there: model_index.json, unet/, vae/"
    ):
        load_checkpoint("models/sd")
    with pytest.raises(CheckpointError, match="models/sd.safetensors: no such file"):
        load_checkpoint("models/sd.safetensors")
    asked = []

    def fetch(repo: str, **options: object) -> str:
        asked.append((repo, options["revision"]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert load_checkpoint("models/sd", COMMIT, hub="someone/sd").folder == folder
    assert asked == [("someone/sd", COMMIT)]
    shutil.copytree(folder, tmp_path / "models/sd")
    assert load_checkpoint("models/sd", COMMIT, hub="someone/sd").folder == Path("models/sd")
    assert len(asked) == 1

    def refuse(repo: str, **options: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=r"no folder models/other, .*unet/.*`hf download someone/sd --local-dir"):
        load_checkpoint("models/other", COMMIT, hub="someone/sd")


def test_of_a_repository_with_variants_only_the_wanted_weights_are_fetched(
    folder: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    shutil.copy(copy / UNET, copy / UNET.replace(".safetensors", ".fp16.safetensors"))
    (copy / TEXT).rename(copy / TEXT.replace(".safetensors", ".fp16.safetensors"))
    target = copy.with_name("fetched")

    def fetch(repo: str, revision: str | None, allow_patterns: list[str], ignore_patterns: object = None) -> str:
        assert (repo, revision) == ("someone/sd", "v9")
        names = [str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(copy / name, target / name)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    for variant, unet in ((None, "diffusion_pytorch_model"), ("fp16", "diffusion_pytorch_model.fp16")):
        shutil.rmtree(target, ignore_errors=True)
        found = load_checkpoint("someone/sd", "v9", variant=variant)
        files = sorted(path.name for path in target.rglob("*.safetensors"))
        assert files == sorted(["diffusion_pytorch_model.safetensors", f"{unet}.safetensors", "model.fp16.safetensors"])
        assert found.weights("unet").files[0].name == f"{unet}.safetensors"


def test_a_folder_that_is_one_part_or_holds_the_checkpoint_below_is_told(copy: Path) -> None:
    with pytest.raises(CheckpointError, match="the folder of one part; name the folder above"):
        load_checkpoint(str(copy / "unet"))
    with pytest.raises(CheckpointError, match=f"one level below; name {copy}"):
        load_checkpoint(str(copy.parent))


def test_a_text_encoder_is_read_in_full_precision_whatever_its_file_says(checkpoint: Checkpoint, copy: Path) -> None:
    path = copy / "text_encoder/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "torch_dtype": "float16", "dtype": "float16"}))
    halved = load_checkpoint(str(copy))
    assert halved.digest("text_encoder") == checkpoint.digest("text_encoder")
    expected = checkpoint.load_text_encoder().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in halved.load_text_encoder().state_dict().items())

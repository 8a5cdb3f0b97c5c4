"""The store as the indexed dataset sees it."""

from cache import FeatureStore
from stages.places import INDEX, store_root
from stages.together import json_content


def open_store(store: str) -> FeatureStore:
    """The store at ``runtime.store``, in which scene ids are those of the indexed dataset."""
    return FeatureStore(store_root(store), dataset_name())


def dataset_name() -> str:
    """What the store calls the indexed dataset; empty where the index says none, as old ones do, or is not there."""
    report = INDEX / "report.json"
    return str(json_content(report, "index").get("id", "")) if report.is_file() else ""

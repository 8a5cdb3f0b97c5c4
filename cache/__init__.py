"""A chunked Zarr store for features that are computed once and read many times."""

from cache.basis import Basis, fit_basis
from cache.encoding_error import state_error
from cache.encodings import Encoded, Encoding, parse_encoding
from cache.errors import CacheError, SkippedImage
from cache.fingerprint import explain_difference, fingerprint
from cache.layout import ArraySpec, GroupKey, tap_name
from cache.pending import ShardTask
from cache.reader import FeatureReader
from cache.store import FeatureStore
from cache.writer import ShardSink

__all__ = [
    "ArraySpec",
    "Basis",
    "CacheError",
    "Encoded",
    "Encoding",
    "FeatureReader",
    "FeatureStore",
    "GroupKey",
    "ShardSink",
    "ShardTask",
    "SkippedImage",
    "explain_difference",
    "fingerprint",
    "fit_basis",
    "parse_encoding",
    "state_error",
    "tap_name",
]

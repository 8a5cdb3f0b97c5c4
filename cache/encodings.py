"""How features become bytes: the closed set of encodings, and what each costs in accuracy.

Axes: n images, H x W grid, C channels, K stored channels, B = ceil(HW / 256) blocks of positions.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cache.basis import Basis
from cache.errors import EncodingError, NonFiniteError
from cache.fingerprint import JSON
from cache.finite import not_finite

Floats: TypeAlias = NDArray[Any]  # float16 or float32

BLOCK = 256  # consecutive positions that share one int8 scale per channel
HALF_BITS = 10  # mantissa bits of float16
HALF_MAX = 65504.0


class Encoded(NamedTuple):
    """``values`` (n, H, W, K) as stored, ``scales`` (n, B, K) float16 beside int8 only."""

    values: NDArray[Any]
    scales: NDArray[np.float16] | None = None


@dataclass(frozen=True)
class _Plain:
    """What the encodings without scales share."""

    scaled: ClassVar[bool] = False
    codec: ClassVar[dict[str, Any] | None] = None

    def stored_channels(self, channels: int) -> int:
        return channels

    def blocks(self, positions: int) -> int:
        return 0

    def decode(self, encoded: Encoded) -> NDArray[np.float32]:
        """(n, H, W, C) float32."""
        from cache import kernels

        return kernels.as_float32(encoded.values)


@dataclass(frozen=True)
class Float32(_Plain):
    """As it is. For latents and attention maps, whose peaks int8 would flatten into plateaus."""

    name: ClassVar[str] = "float32"
    dtype: ClassVar[str] = "float32"

    def recipe(self) -> JSON:
        return {"name": self.name}

    def encode(self, x: Floats) -> Encoded:
        """``x`` (n, H, W, C). Raises NonFiniteError."""
        values = np.ascontiguousarray(x, np.float32)
        if not np.isfinite(values).all():
            raise NonFiniteError(not_finite(x))
        return Encoded(values)


@dataclass(frozen=True)
class Float16(_Plain):
    """Half precision, exact for features computed in it. bfloat16 features fit unless they overflow."""

    name: ClassVar[str] = "float16"
    dtype: ClassVar[str] = "float16"

    def recipe(self) -> JSON:
        return {"name": self.name}

    def encode(self, x: Floats) -> Encoded:
        """``x`` (n, H, W, C). Raises NonFiniteError, also on magnitudes above 65504."""
        from cache import kernels

        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(x, np.float16)
        if not kernels.all_finite(values):
            raise NonFiniteError(not_finite(x, HALF_MAX))
        return Encoded(values)


@dataclass(frozen=True)
class BitRound(_Plain):
    """float16 with ``bits`` of its 10 mantissa bits kept, compressed by Blosc: smaller the fewer are kept."""

    bits: int
    dtype: ClassVar[str] = "float16"
    codec: ClassVar[dict[str, Any] | None] = {
        "name": "blosc",
        "configuration": {"cname": "zstd", "clevel": 3, "shuffle": "bitshuffle", "typesize": 2, "blocksize": 0},
    }

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= HALF_BITS:
            raise EncodingError(f"encoding bitround:{self.bits}: keeps 1 to {HALF_BITS} mantissa bits")

    @property
    def name(self) -> str:
        return f"bitround:{self.bits}"

    def recipe(self) -> JSON:
        return {"name": self.name}

    def encode(self, x: Floats) -> Encoded:
        """``x`` (n, H, W, C), rounded half to even. Raises NonFiniteError, also on overflow of float16."""
        bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
        drop = 23 - self.bits
        rounded = bits + ((bits >> np.uint32(drop)) & np.uint32(1)) + np.uint32((1 << (drop - 1)) - 1)
        rounded &= np.uint32(~((1 << drop) - 1) & 0xFFFFFFFF)
        with np.errstate(over="ignore"):
            values = rounded.view(np.float32).astype(np.float16)
        # Rounding a NaN's bits can make an infinity or wrap around: the input decides.
        if not (np.isfinite(values).all() and np.isfinite(x).all()):
            raise NonFiniteError(not_finite(x, HALF_MAX))
        return Encoded(values)


@dataclass(frozen=True)
class Int8:
    """Symmetric: value = int8 x scale, one float16 scale per channel and 256 consecutive positions.

    Blocks keep the few positions with huge values, which diffusion models have, from drowning all others.
    """

    name: ClassVar[str] = "int8"
    dtype: ClassVar[str] = "int8"
    scaled: ClassVar[bool] = True
    codec: ClassVar[dict[str, Any] | None] = None

    def recipe(self) -> JSON:
        return {"name": self.name, "block": BLOCK}

    def stored_channels(self, channels: int) -> int:
        return channels

    def blocks(self, positions: int) -> int:
        return -(-positions // BLOCK)

    def encode(self, x: Floats) -> Encoded:
        """``x`` (n, H, W, C). Raises NonFiniteError, also on magnitudes whose scale float16 cannot hold (8.3e6)."""
        from cache import kernels

        n, height, width, channels = x.shape
        if x.dtype == np.float16 and not kernels.all_finite(np.ascontiguousarray(x)):
            raise NonFiniteError(not_finite(x))
        rows = kernels.as_float32(x).reshape(n, height * width, channels)
        values = np.empty(rows.shape, np.int8)
        scales = np.empty((n, self.blocks(height * width), channels), np.float16)
        maxima = np.empty(scales.shape[1:], np.float32)
        for i in range(n):
            finite = kernels.block_maxima(rows[i], maxima)
            scales[i] = kernels.scales_of(maxima)
            if not finite or not np.isfinite(scales[i]).all():
                raise NonFiniteError(not_finite(x[i : i + 1], HALF_MAX * 127))
            kernels.quantise(rows[i], scales[i].astype(np.float32), values[i])
        return Encoded(values.reshape(n, height, width, channels), scales)

    def decode(self, encoded: Encoded) -> NDArray[np.float32]:
        """(n, H, W, K) float32. Raises EncodingError when the scales are missing."""
        from cache import kernels

        if encoded.scales is None:
            raise EncodingError("int8: values without their scales cannot be decoded")
        values = encoded.values
        out = np.empty(values.shape, np.float32)
        scales = encoded.scales.astype(np.float32)
        for i in range(len(values)):
            flat = values[i].reshape(-1, values.shape[-1])
            kernels.dequantise(flat, scales[i], out[i].reshape(flat.shape), 0)
        return out


@dataclass(frozen=True)
class Project:
    """Coefficients of the first ``k`` principal channels, in int8. ``basis`` may be absent for planning only, or where
    a stored one cannot be read: ``lost`` then is its digest."""

    k: int
    basis: Basis | None = None
    lost: str | None = None
    dtype: ClassVar[str] = "int8"
    scaled: ClassVar[bool] = True
    codec: ClassVar[dict[str, Any] | None] = None

    def __post_init__(self) -> None:
        if self.k < 1 or (self.basis is not None and len(self.basis.vectors) != self.k):
            raise EncodingError(f"encoding project:{self.k}: needs k >= 1 and a basis of k vectors")

    @property
    def name(self) -> str:
        return f"project:{self.k}"

    def recipe(self) -> JSON:
        return {"name": self.name, "block": BLOCK, "basis": self.digest}

    @property
    def digest(self) -> str | None:
        """Digest of the basis, None before there is one."""
        return self.basis.digest if self.basis else self.lost

    def stored_channels(self, channels: int) -> int:
        if self.k > channels:
            raise EncodingError(f"encoding project:{self.k}: the feature has only {channels} channels")
        return self.k

    def blocks(self, positions: int) -> int:
        return Int8().blocks(positions)

    def encode(self, x: Floats) -> Encoded:
        """``x`` (n, H, W, C). Raises NonFiniteError; EncodingError without a basis."""
        basis = self._basis()
        if not np.isfinite(x).all():
            raise NonFiniteError(not_finite(x))
        return Int8().encode((x.astype(np.float32) - basis.mean) @ basis.vectors.T)

    def decode(self, encoded: Encoded) -> NDArray[np.float32]:
        """(n, H, W, C) float32."""
        basis = self._basis()
        expanded: NDArray[np.float32] = Int8().decode(encoded) @ basis.vectors + basis.mean
        return expanded

    def _basis(self) -> Basis:
        if self.basis is None:
            raise EncodingError(f"encoding {self.name}: has no basis yet; fit one with cache.fit_basis")
        return self.basis


Encoding: TypeAlias = Float32 | Float16 | BitRound | Int8 | Project


def parse_encoding(text: str) -> Encoding:
    """``float32``, ``float16``, ``int8``, ``bitround:n`` or ``project:k``. Raises EncodingError on anything else."""
    name, colon, number = text.partition(":")
    match name, number.isascii() and number.isdigit(), colon:
        case "float32", _, "":
            return Float32()
        case "float16", _, "":
            return Float16()
        case "int8", _, "":
            return Int8()
        case "bitround", True, _:
            return BitRound(int(number))
        case "project", True, _:
            return Project(int(number))
    raise EncodingError(f"encoding {text!r}: expected float16, int8, bitround:n, project:k or float32")

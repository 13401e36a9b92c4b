"""Limits of the machine: the rates of matrix products and of copying memory, measured with XLA programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t2t.launch.bench.measurement import Measurement
from t2t.launch.bench.timing import Limits, repeat, seconds_of
from t2t.plan.chips import CHIPS, Chip

PART = "ceilings"
DTYPES = ("float32", "bfloat16")
SIZES = (512, 1024, 2048, 4096, 8192, 16384)
"""Sizes of the square matrices to try, ascending. Larger sizes are skipped when a product takes longer than `LONG`."""
LONG = 0.25
"""Seconds of a matrix product after which no larger size is tried."""
COPIED = 2**28
"""Bytes to copy: more than the caches hold."""
SHORT = Limits(repeats=10, seconds=2.0)

_KINDS = {
    **{"TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e"},
    **{"TPU v6e": "v6e", "NVIDIA H100 80GB HBM3": "h100"},
}


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The best measured rates (medians).

    matmul:        operand type -> FLOP/s of matrix products on all devices together, at JAX's default precision. A multiply-add counts as two.
    copy:          bytes/s of memory on all devices together. Reads and writes both count, as in STREAM (McCalpin 1995).
    matmul_device: like `matmul`, for one device while the others are idle. Virtual devices share the cores of the machine.
    copy_device:   like `copy`, for one device.
    """

    matmul: dict[str, float]
    copy: float
    matmul_device: dict[str, float] = field(default_factory=dict)
    copy_device: float = 0.0

    @classmethod
    def of(cls, measured: Sequence[Measurement]) -> Ceilings:
        """Return the ceilings from the measurements of `rates`."""
        everywhere = max(int(it.details["devices"]) for it in measured)

        def pick(name: str, devices: int) -> dict[str, float]:
            found = [it for it in measured if it.details["what"] == name and it.details["devices"] == devices]
            return {str(it.details["dtype"]): it.median for it in found}

        return cls(
            matmul=pick("matmul", everywhere),
            copy=pick("copy", everywhere)["float32"],
            matmul_device=pick("matmul", 1),
            copy_device=pick("copy", 1)["float32"],
        )

    def of_matmul(self, dtype: str, rate: float) -> tuple[float | None, str]:
        """Return a rate as a share of the matmul ceiling of a type, and the ceiling's name; None if it was not measured."""
        name = f"measured {dtype} matmul"
        return (rate / self.matmul[dtype], name) if dtype in self.matmul else (None, "")

    def of_copy(self, rate: float) -> tuple[float, str]:
        """Return a rate as a share of the copy ceiling, and the ceiling's name."""
        return rate / self.copy, "measured copy"


def measure(
    dtypes: Sequence[str] = DTYPES, *, limits: Limits = SHORT, sizes: Sequence[int] = SIZES, copied: int = COPIED
) -> Ceilings:
    """Measure the machine, see `rates`. This takes half a minute on two cores."""
    return Ceilings.of(list(rates(dtypes, limits=limits, sizes=sizes, copied=copied)))


def rates(
    dtypes: Sequence[str] = DTYPES, *, limits: Limits = SHORT, sizes: Sequence[int] = SIZES, copied: int = COPIED
) -> Iterator[Measurement]:
    """Yield the rates of matrix products for each type, and of copying: on one device, then on all devices at once if there are several.

    limits: limits for each size.
    sizes:  sizes of the square matrices, ascending. The size with the best median counts.
    copied: bytes to copy per device. Virtual CPU devices share them.
    """
    scopes = [jax.local_devices()[:1], *([jax.devices()] if jax.device_count() > 1 else [])]
    for devices in scopes:
        where = "" if len(devices) == jax.device_count() else ", one device"
        for dtype in dtypes:
            tried = []
            for size in sizes:
                seconds = _products(devices, size, dtype, limits)
                tried.append((2 * size**3 * len(devices), size, seconds))
                if np.median(seconds) > min(LONG, limits.seconds):
                    break
            operations, size, seconds = max(tried, key=lambda it: it[0] / np.median(it[2]))
            yield Measurement(
                part=PART,
                name=f"matmul {dtype}{where}",
                unit="FLOP/s",
                samples=tuple(operations / it for it in seconds),
                details={"what": "matmul", "dtype": dtype, "devices": len(devices), "size": size, "flops": operations},
            )
        each = copied // (len(devices) if devices[0].platform == "cpu" else 1)
        seconds, moved = _copies(devices, each, limits)
        yield Measurement(
            part=PART,
            name=f"copy{where}",
            unit="bytes/s",
            samples=tuple(moved / it for it in seconds),
            details={"what": "copy", "dtype": "float32", "devices": len(devices), "bytes": moved},
        )


def chip_of(device: Any) -> Chip | None:
    """Return the published numbers of a device, or None if `t2t.plan.chips` does not have them."""
    name = _KINDS.get(device.device_kind)
    return None if name is None else CHIPS[name]


def published(chip: Chip, dtype: str) -> float:
    """Return a chip's published rate of matrix products in FLOP/s."""
    return chip.flops_float32 if dtype == "float32" else chip.flops


def _products(devices: Sequence[Any], size: int, dtype: str, limits: Limits) -> list[float]:
    """Return the seconds of a product on all devices at once: [devices * size, size] by [size, size], sharded by rows."""
    rows, whole = _shardings(devices)
    left = _random((len(devices) * size, size), dtype, rows)
    right = _random((size, size), dtype, whole)
    product = jax.jit(jnp.matmul, out_shardings=rows)
    return repeat(lambda: seconds_of(product, left, right), limits)


def _copies(devices: Sequence[Any], size: int, limits: Limits) -> tuple[list[float], int]:
    """Return the seconds of an in-place addition to an array of `size` bytes per device, and the bytes read and written."""
    rows, _ = _shardings(devices)
    count = size // 4
    array = jax.jit(lambda: jnp.zeros((len(devices), count), jnp.float32), out_shardings=rows)()
    # In place: a new array each time would also measure page faults.
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0, out_shardings=rows)

    def turn() -> jax.Array:
        nonlocal array
        array = add(array)
        return array

    return repeat(lambda: seconds_of(turn), limits), 2 * 4 * count * len(devices)


def _shardings(devices: Sequence[Any]) -> tuple[NamedSharding, NamedSharding]:
    mesh = Mesh(np.array(devices), ("all",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("all")), NamedSharding(mesh, PartitionSpec())


def _random(shape: tuple[int, int], dtype: str, sharding: NamedSharding) -> jax.Array:
    # Random numbers: some hardware is cooler, and so faster, with zeros. Created on the host: two communicating programs that run at once can
    # deadlock if there are more virtual devices than cores.
    square = np.random.default_rng(0).random((shape[1], shape[1]), np.float32).astype(jnp.dtype(dtype))
    return jax.block_until_ready(jax.make_array_from_callback(shape, sharding, lambda _: square))

"""Optimizer state in eight bits, by blocks (Dettmers et al. 2022, https://arxiv.org/abs/2110.02861).

A moment of a large parameter is stored as codes of one byte and a float32 scale for each block of at most 256 values. The codes are those of dynamic
quantization: decades below the largest value, each divided evenly, the largest decade into the most parts. An update decodes the moments, runs the optimizer in
float32, and encodes the new moments.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, UInt8

from t2t.errors import UserError
from t2t.nn.model import ParamSpec
from t2t.optim.paths import flatten_specs
from t2t.optim.per_layer import depth
from t2t.optim.state_axes import abstract_params
from t2t.types import Params

BLOCK = 256
"""Largest number of values with one scale. The size of a block divides the last axis of the parameter, so that no block has values of two rows."""
SMALLEST_BLOCK = 16
"""If the last axis has no larger divisor, the state stays float32: the scales would take too much of the memory."""
SMALL = 4096
"""Parameters with fewer values in a layer have float32 state, as in the authors' library bitsandbytes."""
_DECADES = 7
_SQUARES = frozenset({"nu", "nu_max", "sum_of_squares"})
"""Names of Optax's means and sums of squared gradients, which are not negative. Their square roots are stored: the update divides by these, and a root has half
of the decades, so that small second moments do not become 0."""


@struct.dataclass
class Blocks:
    """An array in eight bits.

    codes:  places in the table of values, with the shape of the array.
    scales: largest absolute value of each block; the last axis has the blocks of a row.
    root:   whether the values are the square roots of the array.
    """

    codes: UInt8[Array, "... D"]
    scales: Float[Array, "... N"]
    root: bool = struct.field(pytree_node=False, default=False)


def in_eight_bits(transform: optax.GradientTransformation, specs: Any) -> optax.GradientTransformation:
    """Return the transformation whose state has eight bits, where it has the shape of a large parameter.

    The state of embeddings and of small parameters stays float32 (Dettmers et al. 2022, section 2.3; `SMALL`). An entry of a new moment that is not finite keeps
    its old value.

    Raises UserError if no part of the state can have eight bits.
    """
    flat = flatten_specs(specs)
    shapes = {path: jax.ShapeDtypeStruct(spec.shape, jnp.float32) for path, spec in flat.items() if _is_large(spec)}

    def init(params: Params) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: encoded(leaf, root=_is_square(path)) if _is_moment(path, leaf, shapes) else leaf,
            transform.init(params),
        )

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        old = jax.tree.map(lambda leaf: decoded(leaf) if _in_blocks(leaf) else leaf, state, is_leaf=_in_blocks)
        updates, new = transform.update(updates, old, params)

        def stored(kept: Any, before: Any, after: Any) -> Any:
            return encoded(jnp.where(jnp.isfinite(after), after, before), root=kept.root) if _in_blocks(kept) else after

        return updates, jax.tree.map(stored, state, old, new, is_leaf=_in_blocks)

    abstract = jax.eval_shape(init, abstract_params(specs))
    if not any(map(_in_blocks, jax.tree.leaves(abstract, is_leaf=_in_blocks))):
        raise UserError(
            "optimizer.state_dtype int8 (--optimizer.state-dtype): no moment of this optimizer has the shape of a trainable parameter with at least"
            f" {SMALL:,} values in a layer, besides embeddings. Nearest: float32."
        )
    return optax.GradientTransformation(init, update)


def encoded(x: Float[Array, "... D"], *, root: bool = False) -> Blocks:
    """Return an array in eight bits. root: store square roots; the array must not be negative."""
    size = block_size(x.shape[-1])
    parts = (jnp.sqrt(x) if root else x).reshape(*x.shape[:-1], -1, size)
    scales = jnp.max(jnp.abs(parts), axis=-1)
    parts = parts / jnp.where(scales > 0, scales, 1.0)[..., None]
    values = table(signed=not root)
    codes = jnp.searchsorted(jnp.asarray((values[1:] + values[:-1]) / 2), parts, method="scan_unrolled")
    if root:  # the optimizer divides by it
        codes = jnp.maximum(codes, (parts > 0).astype(codes.dtype))
    return Blocks(codes.astype(jnp.uint8).reshape(x.shape), scales, root)


def decoded(blocks: Blocks) -> Float[Array, "... D"]:
    """Return the float32 array of `encoded`, up to rounding."""
    codes, count = blocks.codes, blocks.scales.shape[-1]
    parts = jnp.asarray(table(signed=not blocks.root))[codes.astype(jnp.int32)].reshape(*codes.shape[:-1], count, -1)
    x = (parts * blocks.scales[..., None]).reshape(codes.shape)
    return jnp.square(x) if blocks.root else x


@functools.cache
def table(*, signed: bool) -> np.ndarray:
    """Return the 256 values of dynamic quantization in ascending order, from -1 or 0 to 1 (Dettmers et al. 2022, section 2.2 and appendix F.1).

    Each decade, from 0.1 to 1 down to 1e-7 to 1e-6, has half as many values as the one above: the middles of equal parts.
    """
    found = [0.0, 1.0]
    for decade in range(_DECADES):
        count = 2 ** (_DECADES - 1 - decade + (0 if signed else 1))
        middles = (0.1 + 0.9 * (np.arange(count) + 0.5) / count) * 10.0**-decade
        found += [*middles, *(-middles if signed else ())]
    return np.sort(np.array(found, np.float32))


def block_size(size: int) -> int:
    """Return the largest divisor of the last axis of a parameter that is at most BLOCK."""
    return next(block for block in range(min(BLOCK, size), 0, -1) if size % block == 0)


def _is_large(spec: ParamSpec) -> bool:
    values = math.prod(spec.shape) // (depth(spec) or 1)
    return (
        bool(spec.shape)
        and values >= SMALL
        and spec.axes[0] != "vocab"
        and block_size(spec.shape[-1]) >= SMALLEST_BLOCK
    )


def _is_moment(path: tuple[Any, ...], leaf: Any, shapes: dict[str, jax.ShapeDtypeStruct]) -> bool:
    """Return whether a leaf of the state belongs to a large parameter and has its shape. The end of its path is then the parameter's."""
    names = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
    found = next((shapes[name] for i in range(len(names)) if (name := "/".join(names[i:])) in shapes), None)
    return found is not None and leaf.shape == found.shape and leaf.dtype == jnp.float32


def _is_square(path: tuple[Any, ...]) -> bool:
    return any(isinstance(key, jax.tree_util.GetAttrKey) and key.name in _SQUARES for key in path)


def _in_blocks(leaf: Any) -> bool:
    return isinstance(leaf, Blocks)

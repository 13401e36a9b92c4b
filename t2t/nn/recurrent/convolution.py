"""A short causal convolution of each channel, which recurrent mixers apply to their inputs (Fu et al. 2023, "H3"; Gu and Dao 2023, "Mamba")."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.nn.initializers import ZEROS, Initializer, Uniform
from t2t.nn.parameters import parameter
from t2t.nn.recurrent.segments import last
from t2t.types import Array as AnyArray


class CausalConvolution(nnx.Module):
    """`y[t, c] = bias[c] + sum over i of filter[i, c] * x[t - size + 1 + i, c]`, without an activation.

    Tokens of other examples of a packed row count as zeros, as do the places before the first token. So packing changes nothing.

    When decoding, the state is the last `size - 1` inputs of each row, [B, size - 1, C] in the type of the inputs, the latest at the end.

    channels: number of channels C. Each has a filter of its own (a depthwise convolution).
    size:     number of tokens that a filter reads, the token itself included.
    axis:     logical axis of the channels.
    bias:     add a bias.
    init:     initializer of the filters. None means uniform up to 1 / sqrt(size), as in PyTorch's convolutions.

    Weight decay does not apply to the filters, and Muon does not treat them as a matrix: they do not map one layer of units to another.
    """

    def __init__(
        self, channels: int, size: int, *, axis: str | None, bias: bool, init: Initializer | None = None
    ) -> None:
        self.size = size
        self.filter = parameter((size, channels), (None, axis), init or Uniform(size**-0.5), decay=False)
        self.bias = parameter((channels,), (axis,), ZEROS, decay=False) if bias else None

    def __call__(self, x: Float[Array, "B L C"], segments: Int[AnyArray, "B L"]) -> Float[Array, "B L C"]:
        """Apply to whole rows. The result has the type of `x`; sums are computed in float32."""
        return self._biased(_convolved(x, self.filter[...], jnp.asarray(segments))).astype(x.dtype)

    def past(self, x: Float[Array, "B L C"], segments: Int[AnyArray, "B L"]) -> Float[Array, "B K C"]:
        """Return the state after whole rows: the inputs of the last `size - 1` tokens of each row's last example.

        Padding may be at either end of a row. Places before the first token of the example are zeros.
        """
        segments, end = jnp.asarray(segments), last(segments)
        places = end[:, None] + jnp.arange(2 - self.size, 1, dtype=jnp.int32)
        inside = jnp.maximum(places, 0)
        own = jnp.take_along_axis(segments, inside, axis=1) == jnp.take_along_axis(
            segments, jnp.maximum(end, 0)[:, None], axis=1
        )
        taken = jnp.take_along_axis(x, inside[..., None], axis=1)
        return jnp.where((own & (places >= 0))[..., None], taken, 0)

    def step(
        self, x: Float[Array, "B 1 C"], past: Float[Array, "B K C"]
    ) -> tuple[Float[Array, "B 1 C"], Float[Array, "B K C"]]:
        """Apply to one more token per row. Also return the new state."""
        window = jnp.concatenate([past, x.astype(past.dtype)], axis=1)
        total = jnp.sum(window * self.filter[...], axis=1, keepdims=True)
        return self._biased(total).astype(x.dtype), window[:, 1:]

    def _biased(self, total: Float[Array, "B L C"]) -> Float[Array, "B L C"]:
        return total if self.bias is None else total + self.bias[...]


@jax.custom_vjp
def _convolved(x: Float[Array, "B L C"], filters: Float[Array, "K C"], segments: Int[Array, "B L"]) -> jax.Array:
    """Return the sums in float32, without a bias."""
    total = x * filters[-1]
    for distance in _distances(x, filters)[1:]:
        total += _earlier(x, segments, distance) * filters[-1 - distance]
    return total


def _forward(x: jax.Array, filters: jax.Array, segments: jax.Array) -> tuple[jax.Array, tuple[Any, ...]]:
    return _convolved(x, filters, segments), (x, filters, segments)


def _backward(saved: tuple[Any, ...], gradient: Float[Array, "B L C"]) -> tuple[jax.Array, jax.Array, None]:
    # Automatic differentiation of the shifts takes ten times as long on a CPU.
    x, filters, segments = saved
    distances = _distances(x, filters)
    of_x = gradient * filters[-1]
    for distance in distances[1:]:
        of_x += _later(gradient, segments, distance) * filters[-1 - distance]
    of_filters = [jnp.sum(gradient * _earlier(x, segments, distance), axis=(0, 1)) for distance in distances]
    unused = [jnp.zeros_like(filters[0])] * (len(filters) - len(of_filters))
    return of_x.astype(x.dtype), jnp.stack([*unused, *reversed(of_filters)]), None


_convolved.defvjp(_forward, _backward)


def _distances(x: Float[Array, "B L C"], filters: Float[Array, "K C"]) -> range:
    return range(min(len(filters), x.shape[1]))


def _earlier(x: Float[Array, "B L C"], segments: Int[Array, "B L"], distance: int) -> Float[Array, "B L C"]:
    """Return for each token the one `distance` before it; 0 if that is of another example."""
    shift = ((0, 0), (distance, 0))
    same = jnp.pad(segments, shift, constant_values=-1)[:, : x.shape[1]] == segments
    return jnp.where(same[..., None], jnp.pad(x, (*shift, (0, 0)))[:, : x.shape[1]], 0)


def _later(x: Float[Array, "B L C"], segments: Int[Array, "B L"], distance: int) -> Float[Array, "B L C"]:
    """Return for each token the one `distance` after it; 0 if that is of another example."""
    shift = ((0, 0), (0, distance))
    same = jnp.pad(segments, shift, constant_values=-1)[:, distance:] == segments
    return jnp.where(same[..., None], jnp.pad(x, (*shift, (0, 0)))[:, distance:], 0)

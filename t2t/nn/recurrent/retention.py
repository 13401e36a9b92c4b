"""Retention, the mixer of RetNet (Sun et al. 2023, "Retentive Network: A Successor to Transformer for Large Language Models")."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from t2t.errors import UserError
from t2t.limits import Length, NormEpsilon, Range, Width
from t2t.nn.linear import Linear
from t2t.nn.mixers import BuildOptions, Capabilities, Context, MixerConfig
from t2t.nn.recurrent.linear_attention import LinearAttention, Terms
from t2t.nn.rotary import RotaryAngles, rotate
from t2t.sharding import constrain

Heads = Annotated[int, Range(1, 64)]
"""Number of heads. The decay of a 65th head would be 1 in float32."""


class Retention(LinearAttention):
    """Linear attention whose heads decay at constant rates, with rotary positions, a norm of each head's output, and a gate.

    Head h decays by 1 - 2 ** (-5 - h) for each token. Its `Context.inputs` are the angles of the rotary positions.
    """

    def __init__(self, config: RetentionConfig, options: BuildOptions) -> None:
        self.config, self.chunk = config, config.chunk
        width, keys, values = options.width, config.num_heads * config.key_dim, config.num_heads * config.value_dim
        linear = partial(Linear, width, bias=False, quantization=options.quantization, init=options.kernel_init(width))
        self.query = linear(keys, ("embed", "heads"))
        self.key = linear(keys, ("embed", "heads"))
        self.value = linear(values, ("embed", "heads"))
        self.gate = linear(values, ("embed", "heads"))
        last = options.kernel_init(values, residual=True)
        self.out = Linear(values, width, ("heads", "embed"), bias=False, quantization=options.quantization, init=last)

    def terms(self, x: Float[Array, "B L D"], context: Context) -> Terms:
        """Return what tokens read and write. Keys are divided by the square root of their width."""
        angles: RotaryAngles = context.inputs
        key = rotate(self._split(self.key(x)), angles) * self.config.key_dim**-0.5
        decay = jnp.broadcast_to(jnp.asarray(self.config.log_decay), (*x.shape[:2], self.config.num_heads))
        return Terms(rotate(self._split(self.query(x)), angles), key, self._split(self.value(x)), decay)

    def output(self, x: Float[Array, "B L D"], read: Float[Array, "B L H V"]) -> Float[Array, "B L D"]:
        """Normalize what each head read, multiply it by the gate, and project it."""
        centred = read - jnp.mean(read, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + self.config.norm_epsilon)
        return self.out(jax.nn.silu(self.gate(x)) * normal.reshape(*x.shape[:2], -1).astype(x.dtype))

    def _split(self, x: Float[Array, "B L HD"]) -> Float[Array, "B L H D"]:
        heads = x.reshape(*x.shape[:2], self.config.num_heads, -1)
        return constrain(heads, ("batch", "length", "heads", None))


@dataclass(frozen=True, kw_only=True)
class RetentionConfig(MixerConfig):
    """Retention.

    Args:
        num_heads: number of heads. The last one remembers longest: about 2 ** (5 + h) tokens.
        key_dim: width of a head's queries and keys, an even number.
        value_dim: width of a head's values; the paper has twice `key_dim`.
        chunk: length of a chunk in training. The result does not depend on it. None means one chunk for the whole row, the parallel form.
        norm_epsilon: epsilon of the norm of each head's output, which has no parameters.
    """

    name: ClassVar[str] = "retention"
    capabilities: ClassVar[Capabilities] = Capabilities(packing=True, decoding=True)
    num_heads: Heads
    key_dim: Width = 256
    value_dim: Width = 512
    chunk: Length | None = 256
    norm_epsilon: NormEpsilon = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.key_dim % 2:
            raise UserError(
                f"key_dim is {self.key_dim} (RetentionConfig.key_dim); rotary positions need an even width."
                f" Nearest: {self.key_dim + 1}."
            )

    @property
    def log_decay(self) -> tuple[float, ...]:
        """Logarithm of each head's decay."""
        return tuple(math.log1p(-(2.0 ** (-5 - head))) for head in range(self.num_heads))

    def build(self, options: BuildOptions) -> Retention:
        """Return the layer."""
        return Retention(self, options)

    def canonical(self) -> RetentionConfig:
        """Return the configuration with the default length of chunks."""
        return replace(self, chunk=RetentionConfig.chunk)

    def prepare(self, context: Context, tables: Mapping[str, Any]) -> RotaryAngles:
        """Return the angles of the rotary positions, xPos without its own decay: pair i of n rotates by 10000 ** (-i / (n - 1)) radians per position."""
        assert context.positions is not None, "retention needs the tokens' positions"
        frequencies = 10_000.0 ** -np.linspace(0.0, 1.0, self.key_dim // 2)
        angles = context.positions[..., None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)
        return jnp.cos(angles), jnp.sin(angles)

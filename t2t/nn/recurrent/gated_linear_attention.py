"""Gated linear attention (Yang et al. 2023, "Gated Linear Attention Transformers with Hardware-Efficient Training")."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.limits import Length, NormEpsilon, Range, Width
from t2t.nn.linear import Linear
from t2t.nn.mixers import BuildOptions, Capabilities, Context, MixerConfig
from t2t.nn.norms import RMSNorm
from t2t.nn.recurrent.linear_attention import LinearAttention, Terms
from t2t.sharding import constrain


class GatedLinearAttention(LinearAttention):
    """Linear attention in which each coordinate of a key has its own decay, computed from the token, with a norm of each head's output and a gate.

    The decay is sigmoid(z) ** (1 / temperature), where z is a low-rank product with the token and a bias.
    """

    def __init__(self, config: GatedLinearAttentionConfig, options: BuildOptions) -> None:
        self.config, self.chunk = config, config.chunk
        width, keys, values = options.width, config.num_heads * config.key_dim, config.num_heads * config.value_dim
        linear = partial(Linear, quantization=options.quantization)
        init = options.kernel_init(width)
        self.query = linear(width, keys, ("embed", "heads"), bias=False, init=init)
        self.key = linear(width, keys, ("embed", "heads"), bias=False, init=init)
        self.value = linear(width, values, ("embed", "heads"), bias=False, init=init)
        self.gate = linear(width, values, ("embed", "heads"), bias=False, init=init)
        # The decays are sums over many tokens, so their products are never quantized.
        self.decay_down = Linear(width, config.decay_rank, ("embed", None), bias=False, init=init)
        up = options.kernel_init(config.decay_rank)
        self.decay_up = Linear(config.decay_rank, keys, (None, "heads"), bias=True, init=up)
        self.head_norm = RMSNorm(config.value_dim, config.norm_epsilon, axis="kv")
        last = options.kernel_init(values, residual=True)
        self.out = linear(values, width, ("heads", "embed"), bias=False, init=last)

    def terms(self, x: Float[Array, "B L D"], context: Context) -> Terms:
        """Return what tokens read and write. Queries are divided by the square root of their width."""
        z = self.decay_up(self.decay_down(x)).astype(jnp.float32)
        return Terms(
            self._split(self.query(x)) * self.config.key_dim**-0.5,
            self._split(self.key(x)),
            self._split(self.value(x)),
            self._split(jax.nn.log_sigmoid(z) / self.config.temperature),
        )

    def output(self, x: Float[Array, "B L D"], read: Float[Array, "B L H V"]) -> Float[Array, "B L D"]:
        """Normalize what each head read, multiply it by the gate, and project it."""
        normal = self.head_norm(read).reshape(*x.shape[:2], -1).astype(x.dtype)
        return self.out(jax.nn.silu(self.gate(x)) * normal)

    def _split(self, x: Float[Array, "B L HD"]) -> Float[Array, "B L H D"]:
        heads = x.reshape(*x.shape[:2], self.config.num_heads, -1)
        return constrain(heads, ("batch", "length", "heads", None))


@dataclass(frozen=True, kw_only=True)
class GatedLinearAttentionConfig(MixerConfig):
    """Gated linear attention.

    Args:
        num_heads: number of heads; the paper has 4.
        key_dim: width of a head's queries and keys; the paper has half of the width of the stack for all heads together.
        value_dim: width of a head's values; the paper has the width of the stack for all heads together.
        decay_rank: rank of the product that computes the decays.
        temperature: root of the decays. The larger it is, the longer the memory.
        chunk: length of a chunk in training. The result does not depend on it. None means one chunk for the whole row.
        norm_epsilon: epsilon of the norm of each head's output.
    """

    name: ClassVar[str] = "gated_linear_attention"
    capabilities: ClassVar[Capabilities] = Capabilities(packing=True, decoding=True)
    num_heads: Width = 4
    key_dim: Width
    value_dim: Width
    decay_rank: Width = 16
    temperature: Annotated[float, Range(1e-3, 1e6, typical=16.0)] = 16.0
    chunk: Length | None = 64
    norm_epsilon: NormEpsilon = 1e-5

    def build(self, options: BuildOptions) -> GatedLinearAttention:
        """Return the layer."""
        return GatedLinearAttention(self, options)

    def canonical(self) -> GatedLinearAttentionConfig:
        """Return the configuration with the default length of chunks."""
        return replace(self, chunk=GatedLinearAttentionConfig.chunk)

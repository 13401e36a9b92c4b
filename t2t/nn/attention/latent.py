"""Multi-head latent attention (DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1).

Keys and values of all heads are products of one latent vector of each position. Their positions are in a separate rotary key, which all heads share. The
cache of decoding holds the latent vector and the rotary key only.

A decoding step does not expand the latents of earlier positions. With the kernels K and V of a head, the logit of a query q and a latent c is
q . (K c) = (K^T q) . c, and the output is V applied to the weighted sum of latents. So each head attends to the latents themselves, like attention with one
key head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.errors import UserError
from t2t.limits import Configuration, NormEpsilon, Range, Width
from t2t.nn.attention.call import attention
from t2t.nn.attention.config import AttentionConfig
from t2t.nn.attention.inputs import Inputs
from t2t.nn.attention.state import KeyValues
from t2t.nn.attention.step import Shared, attend_step
from t2t.nn.aux import Aux
from t2t.nn.linear import Linear
from t2t.nn.mixers import BuildOptions, Context, Mixer
from t2t.nn.norms import RMSNorm
from t2t.nn.rotary import RotaryAngles, rotate
from t2t.sharding import constrain

ANY_WIDTH = ("einsum", "chunked")
"""Backends whose values may have another width than their keys."""


@dataclass(frozen=True, kw_only=True)
class Latent(Configuration):
    """Sizes of multi-head latent attention. The width of a head without its rotary part is `head_dim` of the stack.

    Args:
        rank: width of the latent vector that keys and values are made from (`kv_lora_rank`). 0 means attention without latent vectors.
        query_rank: width of the latent vector of queries (`q_lora_rank`). None makes queries directly.
        rotary_dim: width of the rotary part of queries and keys (`qk_rope_head_dim`). The rotary key is the same for all heads.
        value_dim: width of a head's values (`v_head_dim`). None means `head_dim`.
        norm_epsilon: epsilon of the RMS norms of the latent vectors.

    Raises:
        UserError: the width of the rotary part is odd.
    """

    rank: Annotated[int, Range(0, 2**20)] = 0
    query_rank: Width | None = None
    rotary_dim: Width = 64
    value_dim: Width | None = None
    norm_epsilon: NormEpsilon = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rotary_dim % 2:
            raise UserError(
                f"model.latent.rotary_dim is {self.rotary_dim}; rotary positions need an even width. Nearest: {self.rotary_dim + 1}."
            )


def _cached(latents: Float[Array, "B L C"]) -> KeyValues:
    """Return the cache of latents, with one head. Its values are empty, because the values of all heads are made from the latents too."""
    key = latents[:, None]
    return KeyValues(key=key, value=key[..., :0])


@dataclass(frozen=True, kw_only=True)
class LatentAttentionConfig(AttentionConfig):
    """Multi-head latent attention; `StackConfig.latent` selects it.

    Args:
        latent: sizes.

    Raises:
        UserError: another option does not suit it.
    """

    latent: Latent

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, found, needed in (
            ("positions", self.positions, "rotary"),
            ("num_kv_heads", self.key_heads, self.num_heads),
            ("qk_norm", self.qk_norm, None),
            ("window", self.window, None),
            ("sparse", self.sparse, None),
            ("sinks", self.sinks, False),
            ("gate", self.gate, False),
            ("sub_norm", self.sub_norm, None),
        ):
            if found != needed:
                raise UserError(
                    f"{name} is {found!r}, which latent attention does not support (LatentAttentionConfig). Nearest: {needed}."
                )
        if not self.latent.rank:
            raise UserError(
                "latent.rank is 0: latent attention needs a latent vector (LatentAttentionConfig). Nearest: 1."
            )

    @property
    def rotary_dim(self) -> int:
        """Width of the rotary part of queries and keys."""
        return self.latent.rotary_dim

    @property
    def value_dim(self) -> int:
        """Width of a head's values."""
        return self.head_dim if self.latent.value_dim is None else self.latent.value_dim

    @property
    def logit_scale(self) -> float:
        """Factor on logits. `scale` replaces the root of the width of queries, not the factor of the rotary positions."""
        default = (self.head_dim + self.rotary_dim) ** -0.5 if self.scaled else 1.0
        return (default if self.scale is None else self.scale) * self.rotary.logit_factor

    def build(self, options: BuildOptions) -> LatentAttention:  # type: ignore[override]  # another mixer with the same inputs
        """Return the layer."""
        return LatentAttention(self, options)


class LatentAttention(Mixer):
    """Multi-head latent attention. Its `Context.inputs` are `t2t.nn.attention.inputs.Inputs`.

    The kernel that expands latents is not quantized, because decoding steps use its two halves in other products.
    """

    def __init__(self, config: LatentAttentionConfig, options: BuildOptions) -> None:
        self.config = config
        latent, width, init, heads = config.latent, options.width, options.kernel_init, config.num_heads
        quantization = options.quantization
        queries = heads * (config.head_dim + latent.rotary_dim)
        rank = latent.query_rank
        self.query_latent = (
            None
            if rank is None
            else Linear(width, rank, ("embed", None), bias=config.biases, init=init(width), quantization=quantization)
        )
        self.query_norm = None if rank is None else RMSNorm(rank, latent.norm_epsilon, "kv")
        inputs = width if rank is None else rank
        self.query = Linear(
            inputs, queries, ("embed", "heads"), bias=False, init=init(inputs), quantization=quantization
        )
        self.latent = Linear(
            width,
            latent.rank + latent.rotary_dim,
            ("embed", None),
            bias=config.biases,
            init=init(width),
            quantization=quantization,
        )
        self.latent_norm = RMSNorm(latent.rank, latent.norm_epsilon, "kv")
        self.key_value = Linear(
            latent.rank,
            heads * (config.head_dim + config.value_dim),
            ("embed", "heads"),
            bias=False,
            init=init(latent.rank),
        )
        inner = heads * config.value_dim
        self.out = Linear(
            inner,
            width,
            ("heads", "embed"),
            bias=config.biases if config.output_bias is None else config.output_bias,
            init=init(inner, residual=True),
            quantization=quantization,
        )

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Attend over the same rows."""
        return self._rows(x, context)[0], {}

    def prefill(
        self, x: Float[Array, "B L D"], context: Context, length: int
    ) -> tuple[Float[Array, "B L D"], KeyValues]:
        """Attend over the same rows. The state holds their latents."""
        y, latents = self._rows(x, context)
        return y, _cached(latents).grow(length - x.shape[1])

    def step(
        self, x: Float[Array, "B 1 D"], state: Any, context: Context, shared: Any = None
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Attend over the current and earlier positions. The cache is written before it is read, so that it need not be copied."""
        assert context.index is not None, "a step needs each row's index"
        state = state.write(self._entry(x, context), context.index)
        return self._step(x, state, context, shared, None), state

    def step_entry(
        self, x: Float[Array, "B 1 D"], state: Any, context: Context, shared: Any = None
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Attend like `step`. Return the position's latent for the cache."""
        assert context.index is not None, "a step needs each row's index"
        entry = self._entry(x, context)
        return self._step(x, state, context, shared, (context.index, entry.key, entry.key)), entry

    def _rows(
        self, x: Float[Array, "B L D"], context: Context
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B L rank+rotary"]]:
        """Return the output and the latents of whole rows."""
        config, inputs = self.config, _inputs(context)
        latents = self._latents(x, inputs.angles)
        latent, rotated = jnp.split(latents, [config.latent.rank], axis=-1)
        # Keys and values have whole rows on every device, as in `t2t.nn.attention.layer`.
        key, value = jnp.split(self._heads(self.key_value(latent), None), [config.head_dim], axis=-1)
        shared = jnp.broadcast_to(rotated[:, :, None], (*key.shape[:3], rotated.shape[-1]))
        queries = jnp.concatenate(self._queries(x, inputs.angles), axis=-1)
        keys = jnp.concatenate([key, shared], axis=-1)
        narrower = 0 if config.backend in ANY_WIDTH else keys.shape[-1] - value.shape[-1]
        if narrower < 0:
            keys, queries = (jnp.pad(part, [(0, 0)] * 3 + [(0, -narrower)]) for part in (keys, queries))
        out = attention(
            queries,
            keys,
            jnp.pad(value, [(0, 0)] * 3 + [(0, max(narrower, 0))]),
            mask=inputs.mask,
            scale=config.logit_scale,
            softcap=config.softcap,
            dropout=config.dropout,
            dropout_key=context.keys.next(),
            backend=config.backend,
            block=config.block,
        )
        return self._joined(out[..., : config.value_dim]), latents

    def _latents(self, x: Float[Array, "B L D"], angles: RotaryAngles | None) -> Float[Array, "B L rank+rotary"]:
        """Return the normalized latents, each followed by its rotated key."""
        assert angles is not None, "latent attention needs rotary angles"
        latent, key = jnp.split(self.latent(x), [self.config.latent.rank], axis=-1)
        return jnp.concatenate([self.latent_norm(latent), rotate(key[:, :, None], angles)[:, :, 0]], axis=-1)

    def _queries(
        self, x: Float[Array, "B L D"], angles: RotaryAngles | None
    ) -> tuple[Float[Array, "B L H head"], Float[Array, "B L H rotary"]]:
        """Return the parts of the queries for the latents and for the rotary keys."""
        assert angles is not None, "latent attention needs rotary angles"
        if self.query_latent is not None and self.query_norm is not None:
            x = self.query_norm(self.query_latent(x))
        plain, rotary = jnp.split(self._heads(self.query(x), "length"), [self.config.head_dim], axis=-1)
        return plain, rotate(rotary, angles)

    def _entry(self, x: Float[Array, "B 1 D"], context: Context) -> KeyValues:
        return _cached(self._latents(x, _inputs(context).angles))

    def _step(
        self, x: Float[Array, "B 1 D"], state: KeyValues, context: Context, prompt: Any, own: Any
    ) -> Float[Array, "B 1 D"]:
        config, inputs = self.config, _inputs(context)
        plain, rotary = self._queries(x, inputs.angles)
        kernel = self._expansion().astype(x.dtype)
        key, value = jnp.split(kernel, [config.head_dim], axis=-1)
        queries = jnp.concatenate([jnp.einsum("bqhd,chd->bqhc", plain, key), rotary], axis=-1)
        shared = []
        if prompt is not None:
            assert inputs.prompt_mask is not None, "a shared prompt needs a mask"
            shared = [Shared(prompt["key"], prompt["key"], inputs.prompt_mask)]
        # The rotary keys are summed up too, and left out after that: a slice of the cache would be a copy.
        out = attend_step(
            queries,
            state.key,
            state.key,
            mask=inputs.mask,
            scale=config.logit_scale,
            softcap=config.softcap,
            own=own,
            shared=shared,
        )
        return self._joined(jnp.einsum("bqhc,chd->bqhd", out[..., : config.latent.rank], value))

    def _expansion(self) -> Float[Array, "rank H head+value"]:
        """Return the kernel that expands latents, with its adapter."""
        kernel, adapter = self.key_value.kernel[...], self.key_value.adapter
        if adapter is not None:
            kernel, _ = adapter.merged(kernel, None)
        return kernel.reshape(kernel.shape[0], self.config.num_heads, -1)

    def _heads(self, x: Float[Array, "B L HD"], length: str | None) -> Float[Array, "B L H D"]:
        return constrain(x.reshape(*x.shape[:2], self.config.num_heads, -1), ("batch", length, "heads", None))

    def _joined(self, out: Float[Array, "B q H D"]) -> Float[Array, "B q D"]:
        """Merge the heads and project to the residual stream."""
        return self.out(out.reshape(*out.shape[:2], -1))


def _inputs(context: Context) -> Inputs:
    assert isinstance(context.inputs, Inputs), "latent attention needs the result of AttentionConfig.prepare"
    return context.inputs

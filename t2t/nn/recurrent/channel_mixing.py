"""RWKV's feed-forward layer, which reads each token and the one before it (Peng et al. 2023, https://arxiv.org/abs/2305.13048)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from t2t.limits import Width
from t2t.nn.aux import Aux
from t2t.nn.dropout import dropout
from t2t.nn.feed_forward import FeedForwardConfig, StatefulFeedForward
from t2t.nn.linear import Linear
from t2t.nn.mixers import BuildOptions, Capabilities, Context
from t2t.nn.parameters import parameter
from t2t.nn.recurrent.initializers import MixShare
from t2t.nn.recurrent.shift import latest, mixed, shifted
from t2t.nn.state import State


@struct.dataclass
class LastToken(State):
    """State of a layer that reads the token before the current one. x: its vector, [B D]."""

    x: Float[Array, "*B D"]


class ChannelMixing(StatefulFeedForward):
    """`value(relu(key(k))^2)`, times `sigmoid(receptance(r))` if `gated`.

    k and r are weighted means of the token and the one before it, with a weight for each channel.
    """

    def __init__(self, config: ChannelMixingConfig, options: BuildOptions) -> None:
        width, init = options.width, options.kernel_init
        linear = partial(Linear, bias=False, quantization=options.quantization)
        self.dropout = options.dropout
        self.mix_key = parameter((width,), ("embed",), MixShare(), decay=False)
        self.key = linear(width, config.inner, ("embed", "mlp"), init=init(width))
        self.value = linear(config.inner, width, ("mlp", "embed"), init=init(config.inner, residual=True))
        self.mix_receptance = parameter((width,), ("embed",), MixShare(), decay=False) if config.gated else None
        self.receptance = linear(width, width, ("embed", None), init=init(width)) if config.gated else None

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Apply to whole rows."""
        return self._combined(x, shifted(x, context.segments), context), {}

    def prefill(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], LastToken]:
        """Apply to prompts. Also return the state."""
        return self(x, context)[0], LastToken(latest(x, context.segments))

    def step(self, x: Float[Array, "B 1 D"], state: Any, context: Context) -> tuple[Float[Array, "B 1 D"], LastToken]:
        """Apply to one more position per row. Also return the updated state."""
        return self._combined(x, state.x[:, None], context), LastToken(x[:, 0])

    def _combined(
        self, x: Float[Array, "B L D"], before: Float[Array, "B L D"], context: Context
    ) -> Float[Array, "B L D"]:
        inner = jnp.square(jax.nn.relu(self.key(mixed(x, before, self.mix_key[...]))))
        y = self.value(dropout(inner, self.dropout, context.keys.next()))
        if self.receptance is None or self.mix_receptance is None:
            return y
        return jax.nn.sigmoid(self.receptance(mixed(x, before, self.mix_receptance[...]))) * y


@dataclass(frozen=True, kw_only=True)
class ChannelMixingConfig(FeedForwardConfig):
    """RWKV's channel mixing. Its state in decoding is the last token's vector.

    Args:
        inner: width of the inner layer.
        gated: multiply the output by a gate (RWKV-4). RWKV-7 has none.
    """

    name: ClassVar[str] = "channel_mixing"
    stateful: ClassVar[bool] = True
    capabilities: ClassVar[Capabilities] = Capabilities(packing=True, decoding=True)
    inner: Width
    gated: bool = True

    def build(self, options: BuildOptions) -> ChannelMixing:
        """Return the layer."""
        return ChannelMixing(self, options)

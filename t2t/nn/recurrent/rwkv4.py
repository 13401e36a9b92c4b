"""Time mixing of RWKV-4 (Peng et al. 2023, https://arxiv.org/abs/2305.13048)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from t2t.limits import Length
from t2t.nn.aux import Aux
from t2t.nn.linear import Linear
from t2t.nn.mixers import BuildOptions, Capabilities, Context, Mixer, MixerConfig
from t2t.nn.parameters import parameter
from t2t.nn.recurrent.initializers import Bonus, LogDecay, MixShare
from t2t.nn.recurrent.shift import latest, mixed, shifted
from t2t.nn.recurrent.wkv import Sums, wkv, wkv_step
from t2t.nn.state import State


@struct.dataclass
class RWKV4State(State):
    """State of RWKV-4's time mixing. x: vector of the last token, [B D]; sums: weighted sums over all tokens."""

    x: Float[Array, "*B D"]
    sums: Sums


class RWKV4(Mixer):
    """`out(sigmoid(receptance(r)) * wkv(key(k), value(v)))`.

    r, k and v are weighted means of the token and the one before it, with a weight for each channel.
    """

    def __init__(self, config: RWKV4Config, options: BuildOptions) -> None:
        width, init = options.width, options.kernel_init
        linear = partial(Linear, width, width, bias=False, quantization=options.quantization)
        mix = partial(parameter, (width,), ("embed",), decay=False)
        self.chunk = config.chunk
        self.mix_key, self.mix_value = mix(MixShare()), mix(MixShare(later=0.3))
        self.mix_receptance = mix(MixShare(power=0.5))
        self.log_decay = parameter((width,), ("mlp",), LogDecay(), decay=False)
        self.bonus = parameter((width,), ("mlp",), Bonus(), decay=False)
        self.key, self.value, self.receptance = (linear(("embed", "mlp"), init=init(width)) for _ in range(3))
        self.out = linear(("mlp", "embed"), init=init(width, residual=True))

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Mix whole rows."""
        return self._rows(x, context)[0], {}

    def prefill(
        self, x: Float[Array, "B L D"], context: Context, length: int
    ) -> tuple[Float[Array, "B L D"], RWKV4State]:
        """Mix prompts. Also return the state, which has room for any number of positions."""
        y, sums = self._rows(x, context)
        return y, RWKV4State(latest(x, context.segments), sums)

    def step(
        self, x: Float[Array, "B 1 D"], state: Any, context: Context, shared: Any = None
    ) -> tuple[Float[Array, "B 1 D"], RWKV4State]:
        """Mix one more position per row. Also return the updated state."""
        gate, key, value = self._projected(x, state.x[:, None])
        average, sums = wkv_step(key[:, 0], value[:, 0], self._decay, self.bonus[...], state.sums)
        return self._output(gate, average[:, None]), RWKV4State(x[:, 0], sums)

    @property
    def _decay(self) -> Float[Array, "D"]:
        return jnp.exp(self.log_decay[...])

    def _rows(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Sums]:
        gate, key, value = self._projected(x, shifted(x, context.segments))
        averages, sums = wkv(key, value, self._decay, self.bonus[...], context.segments, self.chunk)
        return self._output(gate, averages), sums

    def _projected(self, x: jax.Array, before: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the gate, the keys and the values."""
        receptance = self.receptance(mixed(x, before, self.mix_receptance[...]))
        key, value = (
            linear(mixed(x, before, share[...]))
            for linear, share in ((self.key, self.mix_key), (self.value, self.mix_value))
        )
        return jax.nn.sigmoid(receptance), key, value

    def _output(self, gate: jax.Array, average: jax.Array) -> jax.Array:
        return self.out(gate * average.astype(gate.dtype))


@dataclass(frozen=True, kw_only=True)
class RWKV4Config(MixerConfig):
    """RWKV-4's time mixing, a mixer with a state of constant size.

    Args:
        chunk: number of positions that are computed at the same time. More need more memory, and fewer rounds of the loop over a row.
    """

    name: ClassVar[str] = "time_mixing"
    capabilities: ClassVar[Capabilities] = Capabilities(packing=True, decoding=True)
    chunk: Length = 32

    def canonical(self) -> RWKV4Config:
        """Return the configuration with the default chunk, which computes the same."""
        return replace(self, chunk=RWKV4Config.chunk)

    def build(self, options: BuildOptions) -> RWKV4:
        """Return the mixer."""
        return RWKV4(self, options)

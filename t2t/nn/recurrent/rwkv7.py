"""Time mixing of RWKV-7, "Goose" (Peng et al. 2025, https://arxiv.org/abs/2503.14456)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float

from t2t.errors import UserError
from t2t.limits import Range, Width
from t2t.nn.aux import Aux
from t2t.nn.initializers import ONES, ZEROS, Constant
from t2t.nn.linear import Linear
from t2t.nn.mixers import BuildOptions, Capabilities, Context, Handed, Mixer, MixerConfig
from t2t.nn.parameters import parameter
from t2t.nn.recurrent.initializers import Decay, MixShare, Spread
from t2t.nn.recurrent.low_rank import LowRank
from t2t.nn.recurrent.shift import latest, mixed, shifted
from t2t.nn.recurrent.wkv7 import LARGEST_CHUNK, Terms, wkv7, wkv7_step
from t2t.nn.state import State

EPSILON = 1e-5
"""Epsilon of the norm of heads, for each coordinate of a head: 64 coordinates have 64e-5 (released code)."""
READERS = {"receptance": 0.2, "decay": 0.9, "key": 0.7, "value": 0.7, "rate": 0.9, "gate": 0.2}
"""What reads the token shift, each with a share of its own: exponent of its initial values (released code)."""


@struct.dataclass
class RWKV7State(State):
    """State of RWKV-7's time mixing. x: vector of the last token, [B D]; memory: one matrix for each head, float32 [B H V K]."""

    x: Float[Array, "*B D"]
    memory: Float[Array, "*B H V K"]


class HeadNorm(nnx.Module):
    """Layer norm of each head, with a scale and a bias for each channel."""

    def __init__(self, width: int, head_dim: int) -> None:
        self.epsilon = EPSILON * head_dim
        self.scale = parameter((width,), ("heads",), ONES, decay=False)
        self.bias = parameter((width,), ("heads",), ZEROS, decay=False)

    def __call__(self, x: Float[Array, "B L H V"]) -> Float[Array, "B L D"]:
        """Return the normalized heads side by side, in float32."""
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        merged = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(*x.shape[:2], -1)
        return merged * self.scale[...] + self.bias[...]


class RWKV7(Mixer):
    """`out(gate * (norm(wkv(...)) + bonus of the current token))`.

    Receptances, keys, values, decays, learning rates and gates each read a weighted mean of the token and the one before it. Values are mixed with those of the
    first layer, which hands them on.
    """

    def __init__(self, config: RWKV7Config, options: BuildOptions) -> None:
        width, init, head = options.width, options.kernel_init, config.head_dim
        if width % head:
            raise UserError(
                f"RWKV7Config.head_dim is {head}, which does not divide model.d_model = {width}. Nearest: {_divisor(width, head)}."
            )
        self.config, self.heads = config, width // head
        skipped = 0 if config.first else 1
        linear = partial(Linear, width, width, bias=False, quantization=options.quantization)
        for name, power in READERS.items():
            share = parameter((width,), ("embed",), MixShare(power=power, skipped=skipped), decay=False)
            setattr(self, f"mix_{name}", share)
        self.receptance, self.key, self.value = (linear(("embed", "heads"), init=init(width)) for _ in range(3))
        self.out = linear(("heads", "embed"), init=init(width, residual=True))
        self.decay = LowRank(
            options, config.decay_rank, offset=Decay(head_dim=head, skipped=skipped), activation=jnp.tanh
        )
        self.rate = LowRank(options, config.rate_rank, offset=Spread(-0.19, slope=0.4, zigzag=0.3, head_dim=head))
        self.gate = LowRank(options, config.gate_rank, offset=None, activation=jax.nn.sigmoid)
        self.residual = None if config.first else LowRank(options, config.value_rank, offset=Spread(0.73, slope=-0.4))
        vector = partial(parameter, (width,), ("heads",), decay=False)
        self.removal, self.rate_share, self.bonus = (
            vector(start) for start in (Spread(0.71, slope=-0.1), Constant(1.02), Constant(-0.04))
        )
        self.norm = HeadNorm(width, head)

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Any, Aux]:
        """Mix whole rows."""
        return self._rows(x, context)[0], {}

    def prefill(self, x: Float[Array, "B L D"], context: Context, length: int) -> tuple[Any, RWKV7State]:
        """Mix prompts. Also return the state, which has room for any number of positions."""
        y, memory = self._rows(x, context)
        return y, RWKV7State(latest(x, context.segments), memory)

    def step(
        self, x: Float[Array, "B 1 D"], state: Any, context: Context, shared: Any = None
    ) -> tuple[Any, RWKV7State]:
        """Mix one more position per row. Also return the updated state."""
        terms, gate, value = self._projected(x, state.x[:, None], context)
        out, memory = wkv7_step(state.memory, terms)
        return self._output(out, terms, gate, value), RWKV7State(x[:, 0], memory)

    def _rows(self, x: Float[Array, "B L D"], context: Context) -> tuple[Any, Float[Array, "B H V K"]]:
        terms, gate, value = self._projected(x, shifted(x, context.segments), context)
        out, memory = wkv7(terms, context.segments, self.config.chunk)
        return self._output(out, terms, gate, value), memory

    def _projected(
        self, x: Float[Array, "B L D"], before: Float[Array, "B L D"], context: Context
    ) -> tuple[Terms, Float[Array, "B L D"], Float[Array, "B L D"]]:
        """Return the terms of the operator, the gates, and the values before they are mixed with those of the first layer."""
        read = {name: mixed(x, before, getattr(self, f"mix_{name}")[...]) for name in READERS}
        value = own = self.value(read["value"])
        if self.residual is not None:
            assert context.handed is not None, "the first layer hands its values on"
            share = jax.nn.sigmoid(self.residual(read["value"])).astype(own.dtype)
            value = own + (context.handed - own) * share
        key = self.key(read["key"]).astype(jnp.float32)
        rate = jax.nn.sigmoid(self.rate(read["rate"]).astype(jnp.float32))
        log_decay = -jnp.exp(-0.5) * jax.nn.sigmoid(self.decay(read["decay"]).astype(jnp.float32))
        removal = self._split(key * self.removal[...])
        # The length is at least 1e-12. The square root has no gradient at 0, so the square is bounded.
        square = jnp.sum(jnp.square(removal), axis=-1, keepdims=True)
        removal = removal * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
        terms = Terms(
            receptance=self._split(self.receptance(read["receptance"])),
            log_decay=self._split(log_decay),
            key=self._split(key * (1 + (rate - 1) * self.rate_share[...])),
            value=self._split(value),
            removal=-removal,
            replacement=removal * self._split(rate),
        )
        return terms, self.gate(read["gate"]), own

    def _split(self, x: Float[Array, "B L D"]) -> Float[Array, "B L H K"]:
        """Split into heads, in float32."""
        return x.reshape(*x.shape[:2], self.heads, -1).astype(jnp.float32)

    def _output(self, out: Float[Array, "B L H V"], terms: Terms, gate: jax.Array, value: jax.Array) -> Any:
        weight = terms.receptance * terms.key * self.bonus[...].reshape(self.heads, -1)
        own = jnp.sum(weight, axis=-1, keepdims=True) * terms.value
        merged = self.norm(out) + own.reshape(*out.shape[:2], -1)
        y = self.out(merged.astype(gate.dtype) * gate)
        return Handed(y, value) if self.config.first else y


@dataclass(frozen=True, kw_only=True)
class RWKV7Config(MixerConfig):
    """RWKV-7's time mixing, a mixer with a state of constant size.

    Args:
        head_dim: width of a head.
        decay_rank: inner width of the MLP that computes decays.
        rate_rank: inner width of the MLP that computes in-context learning rates.
        value_rank: inner width of the MLP that mixes values with those of the first layer.
        gate_rank: inner width of the MLP that computes gates.
        first: the layer hands its values on to the later ones, and takes none itself. Set it in the first layer of a stack (`StackConfig.first`) only.
        chunk: number of positions that are computed at the same time.
    """

    name: ClassVar[str] = "time_mixing"
    capabilities: ClassVar[Capabilities] = Capabilities(packing=True, decoding=True)
    head_dim: Width = 64
    decay_rank: Width = 64
    rate_rank: Width = 64
    value_rank: Width = 32
    gate_rank: Width = 128
    first: bool = False
    chunk: Annotated[int, Range(1, LARGEST_CHUNK)] = 16

    @property
    def hands_on(self) -> bool:
        """Whether it is the first layer."""
        return self.first

    @property
    def takes_handed(self) -> bool:
        """Whether it is a later layer."""
        return not self.first

    def canonical(self) -> RWKV7Config:
        """Return the configuration with the default chunk, which computes the same."""
        return replace(self, chunk=RWKV7Config.chunk)

    def build(self, options: BuildOptions) -> RWKV7:
        """Return the mixer. Raises UserError if heads do not divide the width."""
        return RWKV7(self, options)


def _divisor(width: int, near: int) -> int:
    return min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(n - near))

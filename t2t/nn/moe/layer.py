"""The feed-forward layer with experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from t2t.errors import UserError
from t2t.limits import Experts, Few, Length, Range, Softcap, Width
from t2t.nn.adapters import Adaptable, Adapters, LowRank
from t2t.nn.aux import Aux
from t2t.nn.dropout import dropout
from t2t.nn.feed_forward import FeedForward, FeedForwardConfig
from t2t.nn.initializers import ZEROS
from t2t.nn.linear import Linear
from t2t.nn.mixers import BuildOptions, Context
from t2t.nn.mlp import ACTIVATIONS, MLP, Activation
from t2t.nn.moe.dispatch import Assigned, Kernels, Pairs, dropless, equal_room, with_room
from t2t.nn.moe.router import Router, jittered, loads, route, terms, with_load
from t2t.nn.parameters import parameter

CapacityFactor = Annotated[float, Range(0.01, 1024.0, typical=1.25)]


class MoE(FeedForward, Adaptable):
    """Weighted sum of the outputs of the experts that a router chooses for each token, each an MLP (Shazeer et al. 2017), and of a shared MLP if there is one.

    The output of the shared MLP may be multiplied by a gate, the sigmoid of one number for each token.

    The kernels of all experts are one parameter, with the leading axis "experts". So are the matrices of their adapters. Padding is not routed, and its output is that of the shared MLP alone.
    """

    def __init__(self, config: MoEConfig, options: BuildOptions) -> None:
        self.config, self.dropout = config, options.dropout
        experts, width, inner = config.num_experts, options.width, config.inner
        used = config.experts_per_token / experts
        init, out_init = options.kernel_init(width), options.kernel_init(inner, residual=True)
        self.router = parameter((width, experts), ("embed", None), init)
        rate = config.router.bias_rate
        self.bias = None if rate is None else parameter((experts,), (None,), ZEROS, decay=False, load_rate=rate)
        self.up = parameter((experts, width, inner), ("experts", "embed", "mlp"), init, used=used)
        self.gate = (
            parameter((experts, width, inner), ("experts", "embed", "mlp"), init, used=used) if config.gated else None
        )
        self.down = parameter((experts, inner, width), ("experts", "mlp", "embed"), out_init, used=used)
        self.router_bias = parameter((experts,), (None,), ZEROS, decay=False) if config.biases else None
        self.up_bias = self._bias("mlp", inner, used)
        self.gate_bias = self._bias("mlp", inner, used) if config.gated else None
        self.down_bias = self._bias("embed", width, used)
        self.shared = (
            None
            if config.shared is None
            else MLP(
                width,
                config.shared,
                activation=config.activation,
                gated=config.gated,
                biases=config.biases,
                dropout=options.dropout,
                init=init,
                out_init=options.kernel_init(config.shared, residual=True),
            )
        )
        self.shared_gate = Linear(width, 1, ("embed", None), bias=False, init=init) if config.shared_gate else None
        self.adapter: LowRank | Adapters | None = None

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Apply to whole rows, or to one position per row. The terms are those of `t2t.nn.moe.router.terms`."""
        config = self.config
        read = jittered(x, config.router.jitter, context.keys.next()) if config.router.jitter else x
        choice_bias = _value(self.bias)
        routing = route(
            read,
            self.router[...],
            config.router,
            config.experts_per_token,
            bias=self._router_bias(read),
            choice_bias=choice_bias,
        )
        real = jnp.asarray(context.segments) > 0
        kernels = Kernels(
            up=self.up[...],
            gate=_value(self.gate),
            down=self.down[...],
            up_bias=_value(self.up_bias),
            gate_bias=_value(self.gate_bias),
            down_bias=_value(self.down_bias),
            up_adapter=_pairs(self.adapter_of("up")),
            gate_adapter=_pairs(self.adapter_of("gate")),
            down_adapter=_pairs(self.adapter_of("down")),
        )
        tokens = Assigned(x, routing.experts, routing.weights, real, self._dropout(x, context))
        inner, kept = partial(_inner, ACTIVATIONS[config.activation], config.limit), None
        room = config.room(x.shape[1])
        if room is None:
            y = dropless(kernels, tokens, inner)
        else:
            y, kept = with_room(kernels, tokens, inner, room)
        weights = real.astype(jnp.float32)
        load = loads(routing, weights)
        if choice_bias is not None:
            y = with_load(y, choice_bias, jnp.sum(load, axis=0))
        if self.shared is not None:
            shared = self.shared(x, context)[0]
            y = y + (shared if self.shared_gate is None else shared * jax.nn.sigmoid(self.shared_gate(x)))
        return y, terms(routing, load, weights, kept, config.router, "encoder_" if context.bidirectional else "")

    def adaptable(self) -> Mapping[str, str]:
        """Return the kernels of the experts and of the router, see `Adaptable`."""
        return {name: name for name in ("router", "up", "gate", "down") if getattr(self, name) is not None}

    def _router_bias(self, x: Float[Array, "B L D"]) -> jax.Array | None:
        """Return what is added to the product with the router's kernel: its bias, its adapter's product, or their sum."""
        bias, adapter = _value(self.router_bias), self.adapter_of("router")
        if adapter is None:
            return bias
        product = adapter.product(x.astype(jnp.float32))
        return product if bias is None else product + bias

    def _dropout(self, x: Float[Array, "B L D"], context: Context) -> Float[Array, "B L F"] | None:
        """Return the factors of dropout on the inner layer of the experts, or None. They depend on the place of the token, not on its experts."""
        key = context.keys.next() if self.dropout else None
        return None if key is None else dropout(jnp.ones((*x.shape[:2], self.config.inner), x.dtype), self.dropout, key)

    def _bias(self, axis: str, size: int, used: float) -> nnx.Param | None:
        if not self.config.biases:
            return None
        return parameter((self.config.num_experts, size), ("experts", axis), ZEROS, decay=False, used=used)


def _value(param: nnx.Param | None) -> jax.Array | None:
    return None if param is None else param[...]


def _pairs(adapter: LowRank | None) -> Pairs | None:
    return None if adapter is None else Pairs(adapter.a[...], adapter.scale * adapter.b[...])


def _inner(
    activation: Callable[[jax.Array], jax.Array], limit: float | None, up: jax.Array, gate: jax.Array | None
) -> jax.Array:
    """Return the inner activations of experts from their branches. limit: see `MoEConfig`."""
    if gate is None:
        return activation(up)
    if limit is None:
        return activation(gate) * up
    return activation(jnp.minimum(gate, limit)) * (jnp.clip(up, -limit, limit) + 1)


@dataclass(frozen=True, kw_only=True)
class MoEConfig(FeedForwardConfig):
    """A mixture of experts.

    Args:
        num_experts: number of experts.
        experts_per_token: number of experts that process each token.
        inner: width of the inner layer of each expert.
        activation: activation function of the experts.
        gated: the experts multiply two branches.
        biases: add biases to the products of the experts and of the router.
        limit: bound the gate above by this value and the other branch on both sides, and add 1 to the other branch (gpt-oss: 7). None means neither.
        shared: width of the inner layer of a shared MLP that processes every token (Dai et al. 2024). None means that there is none.
        shared_gate: multiply the output of the shared MLP by the sigmoid of a product with the token (Qwen2-MoE).
        capacity: how many tokens of a row an expert has room for, as a multiple of its equal share; further tokens are not processed by it. None means no limit.
        tokens: the same limit as a number of tokens.
        router: how tokens choose experts.

    Raises:
        UserError: the options contradict each other.
    """

    name: ClassVar[str] = "moe"
    num_experts: Experts
    experts_per_token: Few = 2
    inner: Width
    activation: Activation = "silu"
    gated: bool = True
    biases: bool = False
    limit: Softcap | None = None
    shared: Width | None = None
    shared_gate: bool = False
    capacity: CapacityFactor | None = None
    tokens: Length | None = None
    router: Router = Router()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.experts_per_token > self.num_experts:
            raise UserError(
                f"model.experts_per_token is {self.experts_per_token}, more than model.num_experts = {self.num_experts}."
                f" Nearest: {self.num_experts}."
            )
        if self.limit is not None and not self.gated:
            raise UserError(
                f"model.expert_limit is {self.limit}, and model.gated is False: it is a bound on the two branches of gated experts. Nearest: None."
            )
        if self.shared_gate and self.shared is None:
            raise UserError(
                "model.shared_expert_gate is True, and there is no shared expert (model.shared_expert_d_ff). Nearest: False."
            )
        if self.experts_per_token == 1 and self.router.normalized:
            raise UserError(
                "model.router.normalized is True with model.experts_per_token = 1: each weight would be 1, and the router would not learn. Nearest: False."
            )

        if self.capacity is not None and self.tokens is not None:
            raise UserError(
                f"model.expert_tokens is {self.tokens} together with model.expert_capacity = {self.capacity}: both limit the tokens of an expert. Nearest: None."
            )
        self._check_groups()

    def _check_groups(self) -> None:
        """Raise UserError if the experts cannot be divided into the groups of the router."""
        groups, most = self.router.groups, self.router.groups_per_token
        if groups == 1:
            return
        possible = [n for n in range(1, self.num_experts // 2 + 1) if self.num_experts % n == 0]
        if groups not in possible:
            raise UserError(
                f"model.router.groups is {groups}, and model.num_experts is {self.num_experts}: each group needs the same number of experts, at least two."
                f" Nearest: {min(possible, key=lambda n: abs(n - groups))}."
            )
        if self.experts_per_token > most * (self.num_experts // groups):
            raise UserError(
                f"model.experts_per_token is {self.experts_per_token}, and the {most} groups that a token chooses from (model.router.groups_per_token) have"
                f" {most * (self.num_experts // groups)} experts. Nearest: {most * (self.num_experts // groups)}."
            )

    def room(self, length: int) -> int | None:
        """Return how many tokens of a row of `length` an expert has room for; None if there is no limit."""
        if self.tokens is not None:
            return min(self.tokens, length)
        if self.capacity is None:
            return None
        return equal_room(length, self.num_experts, self.experts_per_token, self.capacity)

    def sent_to_experts(self, length: int, width: int) -> Mapping[str, float]:
        """Return the numbers that a row sends to the devices of its experts and back, by kind of collective."""
        room = self.room(length)
        if room is None:
            # Tokens with the numbers and weights of their experts, and the results.
            return {"all-gather": length * (width + 2 * self.experts_per_token), "reduce-scatter": length * width}
        return {"all-to-all": 2 * self.num_experts * room * width}

    def build(self, options: BuildOptions) -> MoE:
        """Return the layer.

        Raises:
            UserError: the model asks for what experts do not have: products in eight bits.
        """
        if options.quantization != "none":
            raise UserError(
                f"model.quantization is {options.quantization!r}, and the kernels of experts cannot be quantized. Nearest: none."
            )
        return MoE(self, options)

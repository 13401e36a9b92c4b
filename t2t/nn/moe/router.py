"""Routers: which experts process a token, with which weights, and the terms that keep the experts equally busy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from t2t.limits import Configuration, Range, Weight
from t2t.nn.aux import Aux, Mean, Term
from t2t.nn.dropout import hashed
from t2t.nn.linear import matmul

Scores = Literal["softmax", "sigmoid"]
BalanceOver = Literal["model", "layer"]


@dataclass(frozen=True, kw_only=True)
class Router(Configuration):
    """How tokens choose experts.

    Args:
        scores: function that makes scores of the router's logits: "softmax" over all experts (Shazeer et al. 2017) or "sigmoid" of each (DeepSeek-V3).
        normalized: divide the weights of a token's chosen experts by their sum (Mixtral). With one expert per token, the weight would always be 1 and the
            router would not learn (Fedus et al. 2022), so it must be false.
        balance_loss: factor of the load-balancing loss in the objective (Fedus et al. 2022, equations 4 to 6). The loss is `experts_per_token` if all experts are
            equally busy. 0 means that it is only a metric.
        balance_over: "model" computes the load-balancing loss once, from all tokens of all layers of a stack, as `transformers` does. "layer" computes it for each
            layer and takes the mean, so that layers cannot compensate for each other.
        z_loss: factor of the mean square of log(sum(exp(logits))) in the objective (Zoph et al. 2022). It keeps the logits small.
        jitter: in training, multiply the router's input by random numbers from 1 - jitter to 1 + jitter (Fedus et al. 2022).
    """

    scores: Scores = "softmax"
    normalized: bool = True
    balance_loss: Weight = 0.01
    balance_over: BalanceOver = "model"
    z_loss: Weight = 0.0
    jitter: Annotated[float, Range(0.0, 0.999)] = 0.0


class Routing(NamedTuple):
    """The router's choice for each token, the best expert first.

    logits:  of all experts, float32.
    shares:  scores of all experts, which add up to 1 for each token.
    experts: the chosen ones.
    weights: factors of their outputs, float32.
    """

    logits: Float[Array, "B L E"]
    shares: Float[Array, "B L E"]
    experts: Int[Array, "B L k"]
    weights: Float[Array, "B L k"]


@struct.dataclass
class Balance:
    """The load-balancing loss of several layers together (Fedus et al. 2022): E * sum over experts of (share of tokens) * (mean score).

    It is a product of sums, so layers add up their sums and `value` multiplies them at the end.

    counts:    number of tokens that chose each expert.
    scores:    sum of each expert's scores.
    weight:    number of tokens.
    objective: factor of the loss in the objective.
    """

    counts: Float[Array, "E"]
    scores: Float[Array, "E"]
    weight: Float[Array, ""]
    objective: float = struct.field(pytree_node=False, default=0.0)

    @property
    def value(self) -> Float[Array, ""]:
        """The loss, a mean over tokens; 0 without tokens."""
        tokens = jnp.maximum(self.weight, 1.0)
        return self.counts.shape[-1] * jnp.sum(self.counts / tokens * (self.scores / tokens))

    @property
    def sum(self) -> Float[Array, ""]:
        """The loss times the number of tokens."""
        return self.value * self.weight

    def in_objective(self, weight: Float[Array, ""]) -> Float[Array, ""]:
        """Return what is added to an objective that will be divided by `weight`."""
        return self.objective * self.value * weight


def jittered(x: Float[Array, "B L D"], amount: float, key: jax.Array | None) -> Float[Array, "B L D"]:
    """Return `x` times random numbers from 1 - amount to 1 + amount; `x` itself without a key."""
    if key is None or amount == 0.0:
        return x
    uniform = hashed(key, x.shape).astype(jnp.float32) / 2.0**32
    return x * (1.0 + amount * (2.0 * uniform - 1.0)).astype(x.dtype)


def route(
    x: Float[Array, "B L D"],
    kernel: Float[Array, "D E"],
    router: Router,
    chosen: int,
    bias: Float[Array, "E"] | None = None,
) -> Routing:
    """Choose experts for each token. The computation is in float32, whatever the type of x.

    chosen: number of experts per token.
    bias:   added to the logits, or None.
    """
    logits = matmul(x.astype(jnp.float32), kernel)
    logits = logits if bias is None else logits + bias
    if router.scores == "softmax":
        scores = shares = jax.nn.softmax(logits)
    else:
        scores = jax.nn.sigmoid(logits)
        shares = scores / jnp.sum(scores, axis=-1, keepdims=True)
    weights, experts = jax.lax.top_k(scores, chosen)
    if router.normalized:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return Routing(logits, shares, experts, weights)


def terms(
    routing: Routing, real: Float[Array, "B L"], kept: Float[Array, "B L k"] | None, router: Router, prefix: str
) -> Aux:
    """Return the terms of one layer.

    real:   1 for tokens, 0 for padding.
    kept:   1 for each choice that the expert had room for; None if all had.
    prefix: prefix of the names of the terms.
    """
    experts, chosen = routing.logits.shape[-1], routing.experts.shape[-1]
    tokens = jnp.sum(real)
    one_hot = jax.nn.one_hot(routing.experts, experts, dtype=jnp.float32)
    counts = jnp.sum(one_hot * real[..., None, None], axis=(0, 1, 2))
    scores = jnp.sum(routing.shares * real[..., None], axis=(0, 1))
    balance = Balance(counts, scores, tokens, objective=router.balance_loss)
    z = jnp.sum(jax.nn.logsumexp(routing.logits, axis=-1) ** 2 * real)
    # The load of an expert that is as busy as the mean is 1. It counts once for each token, so the metric is the mean over layers.
    load = counts * (experts / chosen)
    found: dict[str, Term | Mean | Balance] = {
        "balance_loss": balance if router.balance_over == "model" else Mean(balance.sum, tokens, router.balance_loss),
        "router_z_loss": Mean(z, tokens, router.z_loss),
        "expert_load_max": Term(jnp.max(load), tokens),
        "expert_load_min": Term(jnp.min(load), tokens),
    }
    if kept is not None:
        dropped = jnp.sum((1.0 - kept) * real[..., None]) / chosen
        found["dropped_share"] = Term(dropped, tokens)
    return {prefix + name: term for name, term in found.items()}

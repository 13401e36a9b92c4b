"""Routers: which experts process a token, with which weights, and the terms that keep the experts equally busy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from t2t.errors import UserError
from t2t.limits import Configuration, Few, Range, Weight
from t2t.nn.aux import Aux, Mean, Term
from t2t.nn.dropout import hashed
from t2t.nn.linear import matmul

Scores = Literal["softmax", "sigmoid"]
BalanceOver = Literal["model", "layer", "row"]
ScoreScale = Annotated[float, Range(1e-6, 1e6, typical=1.0)]
BiasRate = Annotated[float, Range(0.0, 1.0)]


@dataclass(frozen=True, kw_only=True)
class Router(Configuration):
    """How tokens choose experts.

    Args:
        scores: function that makes scores of the router's logits: "softmax" over all experts (Shazeer et al. 2017) or "sigmoid" of each (DeepSeek-V3).
        normalized: divide the weights of a token's chosen experts by their sum (Mixtral). With one expert per token, the weight would always be 1 and the
            router would not learn (Fedus et al. 2022), so it must be false.
        scale: factor on the weights of the chosen experts (DeepSeek-V3: 2.5).
        groups: number of groups of consecutive experts. A token chooses from the experts of its best `groups_per_token` groups only. The score of a group is
            the sum of its two best experts (DeepSeek-V3). 1 means no groups.
        groups_per_token: number of groups that a token chooses experts from.
        bias_rate: balance the load without a loss (Wang et al. 2024, https://arxiv.org/abs/2408.15664; DeepSeek-V3: 0.001). A bias for each expert is added to
            its score for the choice, not for the weight. Each update increases the bias of experts with less than the mean load by this rate, and decreases
            that of experts with more. 0 keeps the biases as they are. None means that there are no biases.
        balance_loss: factor of the load-balancing loss in the objective (Fedus et al. 2022, equations 4 to 6). The loss is `experts_per_token` if all experts are
            equally busy. 0 means that it is only a metric.
        balance_over: "model" computes the load-balancing loss once, from all tokens of all layers of a stack, as `transformers` does for most families. "layer"
            computes it for each layer and takes the mean, so that layers cannot compensate for each other. "row" computes it for each row of the batch, from
            all layers, and takes the mean, as `transformers` does for Switch Transformers.
        z_loss: factor of the mean square of log(sum(exp(logits))) in the objective (Zoph et al. 2022). It keeps the logits small.
        jitter: in training, multiply the router's input by random numbers from 1 - jitter to 1 + jitter (Fedus et al. 2022).
    """

    scores: Scores = "softmax"
    normalized: bool = True
    scale: ScoreScale = 1.0
    groups: Few = 1
    groups_per_token: Few = 1
    bias_rate: BiasRate | None = None
    balance_loss: Weight = 0.01
    balance_over: BalanceOver = "model"
    z_loss: Weight = 0.0
    jitter: Annotated[float, Range(0.0, 0.999)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups_per_token > self.groups:
            raise UserError(
                f"model.router.groups_per_token is {self.groups_per_token}, more than model.router.groups = {self.groups}. Nearest: {self.groups}."
            )


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

    It is a product of sums, so layers add up their sums and `value` multiplies them at the end. With an axis of rows, it is the mean over the rows.

    counts:    number of tokens that chose each expert.
    scores:    sum of each expert's scores.
    tokens:    number of tokens.
    objective: factor of the loss in the objective.
    """

    counts: Float[Array, "*R E"]
    scores: Float[Array, "*R E"]
    tokens: Float[Array, "*R"]
    objective: float = struct.field(pytree_node=False, default=0.0)

    @property
    def value(self) -> Float[Array, ""]:
        """The loss, a mean over tokens; 0 without tokens."""
        tokens = jnp.maximum(self.tokens, 1.0)[..., None]
        losses = self.counts.shape[-1] * jnp.sum(self.counts / tokens * (self.scores / tokens), axis=-1)
        return jnp.sum(losses) / jnp.maximum(jnp.sum(self.tokens > 0), 1)

    @property
    def weight(self) -> Float[Array, ""]:
        """The number of tokens."""
        return jnp.sum(self.tokens)

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
    bias: Float[Array, "*#B E"] | None = None,
    choice_bias: Float[Array, "E"] | None = None,
) -> Routing:
    """Choose experts for each token. The computation is in float32, whatever the type of x.

    chosen: number of experts per token.
    bias:   added to the logits, the same for all tokens or one for each; or None.
    choice_bias: added to the scores for the choice (`Router.bias_rate`), or None.
    """
    logits = matmul(x.astype(jnp.float32), kernel)
    logits = logits if bias is None else logits + bias
    if router.scores == "softmax":
        scores = shares = jax.nn.softmax(logits)
    else:
        scores = jax.nn.sigmoid(logits)
        shares = scores / jnp.sum(scores, axis=-1, keepdims=True)
    preferred = scores if choice_bias is None else scores + jax.lax.stop_gradient(choice_bias)
    _, experts = jax.lax.top_k(_of_best_groups(preferred, router), chosen)
    weights = jnp.take_along_axis(scores, experts, axis=-1)
    if router.normalized:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    if router.scale != 1.0:
        weights = weights * router.scale
    return Routing(logits, shares, experts, weights)


def _of_best_groups(scores: Float[Array, "B L E"], router: Router) -> Float[Array, "B L E"]:
    """Return the scores, with minus infinity for experts outside of a token's best groups."""
    if router.groups == router.groups_per_token:
        return scores
    grouped = scores.reshape(*scores.shape[:-1], router.groups, -1)
    _, best = jax.lax.top_k(jnp.sum(jax.lax.top_k(grouped, 2)[0], axis=-1), router.groups_per_token)
    allowed = jnp.any(jax.nn.one_hot(best, router.groups, dtype=bool), axis=-2)
    return jnp.where(allowed[..., None], grouped, -jnp.inf).reshape(scores.shape)


def loads(routing: Routing, real: Float[Array, "B L"]) -> Float[Array, "B E"]:
    """Return how many tokens of each row chose each expert. real: 1 for tokens, 0 for padding."""
    one_hot = jax.nn.one_hot(routing.experts, routing.logits.shape[-1], dtype=jnp.float32)
    return jnp.sum(one_hot * real[..., None, None], axis=(1, 2))


@jax.custom_vjp
def with_load(y: Float[Array, "B L D"], bias: Float[Array, "E"], load: Float[Array, "E"]) -> Float[Array, "B L D"]:
    """Return `y`. In the backward pass, the gradient of `bias` is the load of each expert.

    The choice of experts has no gradient. So the load takes its place: it is added up over microbatches and devices and kept apart for each layer, like any
    gradient, and the update changes the bias by it (`t2t.optim.balance`). The load is a number of tokens, which no factor of the loss changes.
    """
    return y


def _with_load_forward(y: jax.Array, bias: jax.Array, load: jax.Array) -> tuple[jax.Array, jax.Array]:
    return y, load


def _with_load_backward(load: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return gradient, load, jnp.zeros_like(load)


with_load.defvjp(_with_load_forward, _with_load_backward)


def terms(
    routing: Routing,
    load: Float[Array, "B E"],
    real: Float[Array, "B L"],
    kept: Float[Array, "B L k"] | None,
    router: Router,
    prefix: str,
) -> Aux:
    """Return the terms of one layer.

    load:   result of `loads`.
    real:   1 for tokens, 0 for padding.
    kept:   1 for each choice that the expert had room for; None if all had.
    prefix: prefix of the names of the terms.
    """
    experts, chosen = routing.logits.shape[-1], routing.experts.shape[-1]
    tokens, counts = jnp.sum(real), jnp.sum(load, axis=0)
    scores = routing.shares * real[..., None]
    if router.balance_over == "row":
        balance = Balance(load, jnp.sum(scores, axis=1), jnp.sum(real, axis=1), objective=router.balance_loss)
    else:
        balance = Balance(counts, jnp.sum(scores, axis=(0, 1)), tokens, objective=router.balance_loss)
    z = jnp.sum(jax.nn.logsumexp(routing.logits, axis=-1) ** 2 * real)
    # The load of an expert that is as busy as the mean is 1. It counts once for each token, so the metric is the mean over layers.
    relative = counts * (experts / chosen)
    found: dict[str, Term | Mean | Balance] = {
        "balance_loss": Mean(balance.sum, tokens, router.balance_loss) if router.balance_over == "layer" else balance,
        "router_z_loss": Mean(z, tokens, router.z_loss),
        "expert_load_max": Term(jnp.max(relative), tokens),
        "expert_load_min": Term(jnp.min(relative), tokens),
    }
    if kept is not None:
        dropped = jnp.sum((1.0 - kept) * real[..., None]) / chosen
        found["dropped_share"] = Term(dropped, tokens)
    return {prefix + name: term for name, term in found.items()}

"""The attention function that models call."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from t2t.nn.attention.abilities import ABILITIES, Backend, Needs, check_abilities
from t2t.nn.attention.chunked import chunked
from t2t.nn.attention.cudnn import cudnn
from t2t.nn.attention.einsum import einsum
from t2t.nn.attention.flash import flash
from t2t.nn.attention.request import Bias, Request
from t2t.nn.attention.splash import splash
from t2t.nn.masks import Mask
from t2t.sharding import axis_size, platform

BACKENDS: dict[str, Callable[[Request], jax.Array]] = {
    "splash": splash,
    "flash": flash,
    "cudnn": cudnn,
    "chunked": chunked,
    "einsum": einsum,
}
assert set(BACKENDS) == set(ABILITIES)


def attention(
    q: Float[Array, "B q H D"],
    k: Float[Array, "B k K D"],
    v: Float[Array, "B k K D"],
    *,
    mask: Mask,
    bias: Float[Array, "#B #H q k"] | Bias | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    sinks: Float[Array, "H"] | None = None,
    dropout: float = 0.0,
    dropout_key: jax.Array | None = None,
    backend: Backend = "einsum",
    block: int = 256,
) -> Float[Array, "B q H D"]:
    """Return the values weighted by the float32 softmax of `scale * q . k + bias` over the keys that `mask` allows.

    A query that sees no key gets 0. H must be a multiple of K: each key head serves H / K query heads.

    softcap: soft bound c on logits: `l = scale * q . k` becomes c tanh(l / c) before the bias is added (Gemma 2). None means no bound.
    sinks:   logit of each head of one more key, whose value is 0, in every softmax (gpt-oss): a head can attend to nothing. None means that there is none.
    bias:    added to the logits: an array, or a function that computes a block of its rows (`t2t.nn.relative.RelativeBias.block`).
    dropout: dropout rate of the weights, if there is a key.
    backend: "einsum" holds all logits in memory. "chunked" holds the logits of `block` queries at a time and recomputes them in the backward pass, so that
             memory is linear in the number of queries (after Rabe & Staats 2021). "splash" and "flash" are JAX's fused kernels on TPUs, with blocks of at
             most `block` queries and keys (after Dao et al. 2022). "cudnn" is cuDNN's fused kernel on NVIDIA GPUs. See `ABILITIES` for their features.

    Raises:
        UserError: the backend is unknown or does not support an argument.
    """
    needs = Needs(
        dtype=q.dtype.name,
        dropout=0.0 if dropout_key is None else dropout,
        bias=bias is not None,
        window=mask.window,
        sparse=mask.sparse is not None,
        prefix=mask.prefix is not None,
        softcap=softcap,
        sinks=sinks is not None,
        memory=mask.memory is not None,
        context=axis_size("context"),
        block=block,
        platform=platform(),
    )
    check_abilities(backend, needs)
    request = Request(
        q=q * scale if scale != 1.0 else q,
        k=k,
        v=v,
        mask=mask,
        bias=bias,
        softcap=softcap,
        sinks=sinks,
        dropout=dropout,
        key=dropout_key,
        block=block,
    )
    return BACKENDS[backend](request)

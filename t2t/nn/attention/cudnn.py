"""cuDNN's fused attention on NVIDIA GPUs.

Rows may be packed. JAX passes only a dense mask or one length per row to cuDNN, and a length cannot separate segments. So the whole mask [B 1 q k] is
computed, one for all heads.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from t2t.errors import UserError
from t2t.nn.attention.request import Request, blank


def cudnn(request: Request) -> Float[Array, "B q H D"]:
    """Attend with cuDNN. Raises UserError if cuDNN does not support the arguments."""
    q, k, v = request.q, request.k, request.v
    if q.shape[1] % 2 or k.shape[1] % 2:
        raise _refuse(f"needs even lengths, not {q.shape[1]} queries and {k.shape[1]} keys")
    try:
        out = jax.nn.dot_product_attention(q, k, v, mask=request.mask.dense(), scale=1.0, implementation="cudnn")
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise _refuse(f"failed: {' '.join(str(error).split())}") from error
    return blank(out, request.mask.sees())


def _refuse(reason: str) -> UserError:
    return UserError(f"attention backend 'cudnn' (--model.attention) {reason}. Nearest: chunked, einsum.")

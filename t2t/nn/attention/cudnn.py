"""cuDNN's fused attention on NVIDIA GPUs.

Rows are packed, and one length a row, which is all that JAX passes on to cuDNN beside a dense mask, cannot tell segments apart: the mask is made
whole, [B 1 q k], one for all heads.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from t2t.errors import UserError
from t2t.nn.attention.request import Request, blank


def cudnn(request: Request) -> Float[Array, "B q H D"]:
    """Attend with cuDNN. Raises UserError where it refuses."""
    q, k, v = request.q, request.k, request.v
    if q.shape[1] % 2 or k.shape[1] % 2:
        raise _refuse(f"needs even lengths, not {q.shape[1]} queries and {k.shape[1]} keys")
    try:
        out = jax.nn.dot_product_attention(q, k, v, mask=request.mask.dense(), scale=1.0, implementation="cudnn")
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise _refuse(f"refused: {' '.join(str(error).split())}") from error
    return blank(out, request.mask.sees())


def _refuse(reason: str) -> UserError:
    return UserError(f"attention backend 'cudnn' (--model.attention) {reason}. Nearest: chunked, einsum.")

"""What each backend of attention can do: one table, for configurations and for calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from t2t.errors import UserError, nearest

Backend = Literal["einsum", "chunked", "splash", "flash", "cudnn"]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What is asked of a backend. A configuration does not know all of it; what is not known is left at its default.

    dtype:    of the computation.
    dropout:  rate at which weights are dropped.
    bias:     whether logits have a bias (relative positions).
    window:   tokens a token sees, or None.
    prefix:   whether a prefix is seen by all of its segment.
    softcap:  bound on logits, or None.
    context:  devices that the length of rows is divided over.
    block:    size of blocks, or None.
    platform: "cpu", "gpu" or "tpu", or None.
    """

    dtype: str
    dropout: float = 0.0
    bias: bool = False
    window: int | None = None
    prefix: bool = False
    softcap: float | None = None
    context: int = 1
    block: int | None = None
    platform: str | None = None


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What a backend honours.

    platform: the only one it runs on, or None for all.
    dtypes:   those it computes in, or None for all.
    bias:     "blocks": made a block of rows at a time; "whole": for all rows at once; None: none.
    window, prefix: of the mask; together: both in one mask.
    softcap:  logits may be bounded.
    context:  rows may be divided along their length.
    block:    its blocks' sizes are multiples of this.
    """

    platform: str | None = None
    dtypes: tuple[str, ...] | None = None
    dropout: bool = False
    bias: Literal["blocks", "whole"] | None = None
    window: bool = True
    prefix: bool = True
    together: bool = True
    softcap: bool = False
    context: bool = False
    block: int = 1


_ON_TPU = ("bfloat16", "float32")
ABILITIES: dict[str, Abilities] = {
    "splash": Abilities(platform="tpu", dtypes=_ON_TPU, together=False, block=128),
    "flash": Abilities(platform="tpu", dtypes=_ON_TPU, bias="whole", window=False, prefix=False, block=128),
    "cudnn": Abilities(platform="gpu", dtypes=("bfloat16", "float16")),
    "chunked": Abilities(dropout=True, bias="blocks", softcap=True, context=True),
    "einsum": Abilities(dropout=True, bias="whole", softcap=True, context=True),
}
"""By name, the narrower first. "cudnn" has no bias: it gives a gradient for one shape of it alone, and JAX leaves that out, as zeros, once a mask is
folded into the bias."""
assert set(ABILITIES) == set(get_args(Backend))

_DEVICES = {"tpu": "TPUs", "gpu": "NVIDIA GPUs"}


def check_abilities(backend: str, needs: Needs) -> None:
    """Raise UserError, with the backends that can do it, where a backend is unknown or cannot do what is asked."""
    if backend not in ABILITIES:
        raise UserError(f"unknown attention backend {backend!r} (--model.attention).{nearest(backend, ABILITIES)}")
    for reason in _refusals(backend, needs):
        able = [name for name in ABILITIES if not any(_refusals(name, needs))]
        raise UserError(f"attention backend {backend!r} (--model.attention) {reason}. Nearest: {', '.join(able)}.")


def portable(backend: Backend) -> Backend:
    """Return the backend, or in place of one that runs on one platform alone, "chunked", which runs on all."""
    return backend if ABILITIES[backend].platform is None else "chunked"


def _refusals(backend: str, needs: Needs) -> Iterator[str]:
    can = ABILITIES[backend]
    if needs.dropout > 0.0 and not can.dropout:
        yield f"has no dropout, and dropout of attention weights is {needs.dropout} (--model.attention-dropout)"
    if needs.context > 1 and not can.context:
        yield f"is not divided along the length of rows, and context is {needs.context} (--mesh.context)"
    if needs.bias and can.bias is None:
        yield (
            "gives no gradient to a bias (relative positions)"
            if backend == "cudnn"
            else "has no bias (relative positions)"
        )
    if needs.window is not None and not can.window:
        yield f"has no sliding window, and window is {needs.window} (--model.decoder.window)"
    if needs.softcap is not None and not can.softcap:
        yield f"does not bound logits, and attention_softcap is {needs.softcap} (--model.decoder.attention-softcap)"
    if needs.prefix and not can.prefix:
        yield "has no prefix that all of its segment sees (--model.mask)"
    if needs.window is not None and needs.prefix and not can.together:
        yield f"has no sliding window of {needs.window} (--model.decoder.window) beside a prefix (--model.mask)"
    if can.dtypes is not None and needs.dtype not in can.dtypes:
        yield f"computes in {' or '.join(can.dtypes)} (--model.dtype), not in {needs.dtype}"
    if needs.block is not None and needs.block % can.block:
        near = max(needs.block // can.block, 1) * can.block
        yield f"has blocks of a multiple of {can.block}, and {needs.block} (--model.attention-block) is none, the nearest being {near}"
    if needs.platform is not None and can.platform not in (None, needs.platform):
        yield f"runs on {_DEVICES[str(can.platform)]}, not on {needs.platform}"

"""The features that each attention backend supports, in one table for configurations and for calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from t2t.errors import UserError, nearest

Backend = Literal["einsum", "chunked", "splash", "flash", "cudnn"]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The features that a call or a configuration needs from a backend. A configuration leaves what it does not know at the default.

    dtype:    type of the computation.
    dropout:  dropout rate of attention weights.
    bias:     whether logits have a bias (relative positions).
    window:   size of the sliding window, or None.
    sparse:   whether there is a sparsity pattern.
    prefix:   whether every token of a segment sees the segment's prefix.
    softcap:  soft bound on logits, or None.
    sinks:    whether each head has a sink.
    memory:   whether an encoder's tokens are keys too, after the row's own.
    context:  number of devices that divide the rows along their length.
    block:    block size, or None.
    platform: "cpu", "gpu" or "tpu", or None.
    """

    dtype: str
    dropout: float = 0.0
    bias: bool = False
    window: int | None = None
    sparse: bool = False
    prefix: bool = False
    softcap: float | None = None
    sinks: bool = False
    memory: bool = False
    context: int = 1
    block: int | None = None
    platform: str | None = None


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """The features that a backend supports.

    platform: the only platform it runs on, or None for all.
    dtypes:   types it computes in, or None for all.
    bias:     "blocks": computed for a block of rows at a time; "whole": computed for all rows at once; None: no bias.
    window, prefix: supported in the mask; together: both in one mask.
    sparse:   sparsity patterns are supported.
    softcap:  a soft bound on logits is supported.
    sinks:    sinks are supported.
    memory:   the mask may have further keys, the tokens of an encoder.
    context:  rows may be divided along their length.
    block:    block sizes must be multiples of this.
    """

    platform: str | None = None
    dtypes: tuple[str, ...] | None = None
    dropout: bool = False
    bias: Literal["blocks", "whole"] | None = None
    window: bool = True
    prefix: bool = True
    together: bool = True
    sparse: bool = False
    softcap: bool = False
    sinks: bool = False
    memory: bool = False
    context: bool = False
    block: int = 1


_ON_TPU = ("bfloat16", "float32")
ABILITIES: dict[str, Abilities] = {
    "splash": Abilities(platform="tpu", dtypes=_ON_TPU, together=False, block=128),
    "flash": Abilities(platform="tpu", dtypes=_ON_TPU, bias="whole", window=False, prefix=False, block=128),
    "cudnn": Abilities(platform="gpu", dtypes=("bfloat16", "float16")),
    "chunked": Abilities(dropout=True, bias="blocks", sparse=True, softcap=True, sinks=True, memory=True, context=True),
    "einsum": Abilities(dropout=True, bias="whole", sparse=True, softcap=True, sinks=True, memory=True, context=True),
}
"""Backends by name, the most specialized first. "cudnn" has no bias: it computes the bias gradient for one shape only, and JAX replaces that gradient
with zeros once a mask is folded into the bias."""
assert set(ABILITIES) == set(get_args(Backend))

_DEVICES = {"tpu": "TPUs", "gpu": "NVIDIA GPUs"}


def check_abilities(backend: str, needs: Needs) -> None:
    """Raise UserError if a backend is unknown or does not support what is needed. The message names the backends that do."""
    if backend not in ABILITIES:
        raise UserError(f"unknown attention backend {backend!r} (--model.attention).{nearest(backend, ABILITIES)}")
    for reason in _refusals(backend, needs):
        able = [name for name in ABILITIES if not any(_refusals(name, needs))]
        raise UserError(f"attention backend {backend!r} (--model.attention) {reason}. Nearest: {', '.join(able)}.")


def portable(backend: Backend) -> Backend:
    """Return the backend itself if it runs on all platforms, else "chunked"."""
    return backend if ABILITIES[backend].platform is None else "chunked"


def _refusals(backend: str, needs: Needs) -> Iterator[str]:
    can = ABILITIES[backend]
    if needs.dropout > 0.0 and not can.dropout:
        yield f"has no dropout, and the dropout rate of attention weights is {needs.dropout} (--model.attention-dropout)"
    if needs.context > 1 and not can.context:
        yield f"cannot divide rows along their length, and context is {needs.context} (--mesh.context)"
    if needs.bias and can.bias is None:
        yield (
            "computes no gradient of a bias (relative positions)"
            if backend == "cudnn"
            else "has no bias (relative positions)"
        )
    if needs.window is not None and not can.window:
        yield f"has no sliding window, and window is {needs.window} (--model.decoder.window)"
    if needs.sparse and not can.sparse:
        yield "has no sparsity patterns (LayerOptions.sparse)"
    if needs.softcap is not None and not can.softcap:
        yield f"has no soft bound on logits, and attention_softcap is {needs.softcap} (--model.decoder.attention-softcap)"
    if needs.sinks and not can.sinks:
        yield "has no attention sinks (--model.decoder.attention-sinks)"
    if needs.memory and not can.memory:
        yield "cannot attend to an encoder's output together with the row's own tokens (--model.merged-attention)"
    if needs.prefix and not can.prefix:
        yield "has no prefix mask (--model.mask prefix)"
    if needs.window is not None and needs.prefix and not can.together:
        yield f"cannot combine a sliding window of {needs.window} (--model.decoder.window) with a prefix mask (--model.mask prefix)"
    if can.dtypes is not None and needs.dtype not in can.dtypes:
        yield f"computes in {' or '.join(can.dtypes)} (--model.dtype), not in {needs.dtype}"
    if needs.block is not None and needs.block % can.block:
        multiple = max(needs.block // can.block, 1) * can.block
        yield f"needs blocks of a multiple of {can.block}, and --model.attention-block is {needs.block}, the nearest multiple being {multiple}"
    if needs.platform is not None and can.platform not in (None, needs.platform):
        yield f"runs on {_DEVICES[str(can.platform)]}, not on {needs.platform}"

"""The interface of feed-forward layers, which process each position independently, or with a bounded state of the positions before it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float

from t2t.errors import UserError
from t2t.limits import Configuration
from t2t.nn.aux import Aux
from t2t.nn.mixers import BuildOptions, Capabilities, Context, Needs, lacking
from t2t.nn.state import State


class FeedForward(nnx.Module, abc.ABC):
    """A layer that processes each position independently."""

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Apply to whole rows, or to one position per row. Also return the auxiliary terms to report, {} for none."""


class StatefulFeedForward(FeedForward):
    """A feed-forward layer that also reads positions before its own, through a state whose size does not depend on their number (RWKV's channel mixing).

    `__call__` is for whole rows only. The methods are like those of `t2t.nn.mixers.Mixer`.
    """

    @abc.abstractmethod
    def prefill(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], State]:
        """Apply to whole rows, which hold one prompt each and are padded at the end. Also return the state."""

    @abc.abstractmethod
    def step(self, x: Float[Array, "B 1 D"], state: Any, context: Context) -> tuple[Float[Array, "B 1 D"], Any]:
        """Apply to one more position per row. Also return the updated state."""


@dataclass(frozen=True, kw_only=True)
class FeedForwardConfig(Configuration, abc.ABC):
    """Configuration of a kind of feed-forward layer.

    name: name of its parameters in a layer.
    stateful: the layer is a `StatefulFeedForward`.
    capabilities: the features that it supports. A layer that processes each position independently supports all.
    """

    name: ClassVar[str] = "feed_forward"
    stateful: ClassVar[bool] = False
    capabilities: ClassVar[Capabilities] = Capabilities(
        bidirectional=True, packing=True, prefix=True, decoding=True, context=True
    )

    @abc.abstractmethod
    def build(self, options: BuildOptions) -> FeedForward:
        """Return the layer."""

    def check(self, needs: Needs) -> None:
        """Raise UserError if this kind of layer does not support what is needed."""
        for name, why in lacking(self.capabilities, needs):
            raise UserError(f"feed-forward layer {type(self).__name__} {why} (capabilities.{name} is False)")

    def sent_to_experts(self, length: int, width: int) -> Mapping[str, float]:
        """Return how many numbers a row of `length` positions sends along the mesh axis "expert" forward, by kind of collective (`t2t.plan.collectives`).

        width: width of the residual stream.
        """
        return {}

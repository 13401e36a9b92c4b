"""The interface of feed-forward layers, which process each position independently."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Float

from t2t.limits import Configuration
from t2t.nn.aux import Aux
from t2t.nn.mixers import BuildOptions, Context


class FeedForward(nnx.Module, abc.ABC):
    """A layer that processes each position independently."""

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Apply to whole rows, or to one position per row. Also return the auxiliary terms to report, {} for none."""


@dataclass(frozen=True, kw_only=True)
class FeedForwardConfig(Configuration, abc.ABC):
    """Configuration of a kind of feed-forward layer. name: name of its parameters in a layer."""

    name: ClassVar[str] = "feed_forward"

    @abc.abstractmethod
    def build(self, options: BuildOptions) -> FeedForward:
        """Return the layer."""

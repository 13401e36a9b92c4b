"""Configuration of one layer of a stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from t2t.nn.convolution import ConvolutionConfig
from t2t.nn.feed_forward import FeedForwardConfig
from t2t.nn.mixers import MixerConfig, Needs
from t2t.nn.norms import LayerNorm, NormKind, RMSNorm, norm

NormPlace = Literal["pre", "post", "sandwich", "output"]


@dataclass(frozen=True, kw_only=True)
class NormConfig:
    """The norms of a layer.

    kind, epsilon: see `t2t.nn.norms`.
    place: "pre" normalizes the input of a sublayer; "post" normalizes the residual sum after it; "sandwich" normalizes the input and the output of a sublayer,
           before the sum (Ding et al. 2021; Gemma 2); "output" normalizes only the output, before the sum (OLMo 2).
    mixer: whether the mixer has its norm of the kind "pre" or "post".
    """

    kind: NormKind
    epsilon: float
    place: NormPlace
    mixer: bool = True

    def build(self, width: int) -> RMSNorm | LayerNorm:
        """Return one norm."""
        return norm(self.kind, width, self.epsilon)


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """A layer: a mixer, optional cross attention, a feed-forward layer, and the norms of each.

    feed_forward: None if the layer has none (Mamba).
    parallel: all of them read the input of the layer. Otherwise each reads the sum after the one before it.
    convolution: a convolution of the layer's input, added to its output and normalized with it, or None.
    dropout: dropout rate of what each of them adds to the residual stream.
    """

    mixer: MixerConfig
    feed_forward: FeedForwardConfig | None
    norms: NormConfig
    cross: MixerConfig | None = None
    parallel: bool = False
    convolution: ConvolutionConfig | None = None
    dropout: float = 0.0

    def check(self, needs: Needs) -> None:
        """Raise UserError if the mixer or the feed-forward layer does not support what is needed."""
        self.mixer.check(needs)
        if self.feed_forward is not None:
            self.feed_forward.check(needs)

    @property
    def stateful_feed_forward(self) -> bool:
        """Whether the feed-forward layer has a state in decoding."""
        return self.feed_forward is not None and self.feed_forward.stateful

"""Optimizers as configurations that build Optax transformations."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import jax
import optax

from t2t.limits import Configuration, Epsilon, Momentum, Norm, Range, Share, Weight, Width
from t2t.optim.norms import clip_by_norm
from t2t.optim.paths import flatten_specs, path_name
from t2t.optim.per_layer import as_matrices, per_layer
from t2t.optim.schedules import Constant, Cosine, InverseSquareRoot, Schedule
from t2t.types import Params


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Configuration, abc.ABC):
    """What turns gradients into updates. A subclass has its options as fields, and `rules`.

    Args:
        schedule: the learning rate. The default is the optimizer's own.
        clip_norm: gradients are scaled down so that their norm, over all trainable parameters together, is at most this.
    """

    schedule: Schedule = field(default_factory=Constant)
    clip_norm: Norm | None = None

    def build(self, specs: Any) -> optax.GradientTransformation:
        """Return the transformation of gradients to updates for parameters like `specs`, a nested dict of ParamSpec: those that are trainable."""
        parts = [] if self.clip_norm is None else [clip_by_norm(self.clip_norm, specs)]
        return optax.chain(*parts, *self.rules(specs))

    @abc.abstractmethod
    def rules(self, specs: Any) -> list[optax.GradientTransformation]:
        """Return the transformations that follow clipping, the learning rate (`schedule`) included, for parameters like `specs`."""


@dataclass(frozen=True, kw_only=True)
class AdamW(OptimizerConfig):
    """Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019), both times the learning rate.

    Args:
        b1: decay of the running mean of gradients.
        b2: decay of the running mean of squared gradients.
        eps: added to the root of the latter, which updates are divided by.
        weight_decay: on parameters whose spec says decay; biases, norms and embeddings of positions are spared.
    """

    schedule: Schedule = field(default_factory=lambda: Cosine(steps=100_000, warmup=1_000))
    b1: Momentum = 0.9
    b2: Momentum = 0.95
    eps: Epsilon = 1e-8
    weight_decay: Weight = 0.1
    clip_norm: Norm | None = 1.0

    def rules(self, specs: Any) -> list[optax.GradientTransformation]:
        """Return Adam, weight decay and the learning rate."""
        return [
            optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps),
            *_weight_decay(self.weight_decay, specs),
            optax.scale_by_learning_rate(self.schedule.build()),
        ]


@dataclass(frozen=True, kw_only=True)
class Adafactor(OptimizerConfig):
    """Adafactor as T5 was trained with it (Shazeer & Stern 2018).

    Second moments factored into rows and columns, no first moment, steps relative to a parameter's own root mean square. A
    layer of a stacked parameter counts as a parameter, and a projection to heads as a matrix.

    Args:
        decay_rate: second moments decay by 1 - step ** -decay_rate, steps counted from 1.
        clip_threshold: an update of a larger root mean square is scaled down to it; None for no such clipping.
        min_scale: least root mean square that steps are relative to.
        relative: steps are times the parameter's root mean square, at least `min_scale`.
        min_dimension: moments are factored where the two largest dimensions have at least this size.
        eps: added to squared gradients.
        weight_decay: times the learning rate, on parameters whose spec says decay.
    """

    schedule: Schedule = field(default_factory=InverseSquareRoot)
    decay_rate: Share = 0.8
    clip_threshold: Norm | None = 1.0
    relative: bool = True
    min_scale: Annotated[float, Range(1e-12, 1.0, typical=1e-3)] = 1e-3
    min_dimension: Width = 128
    eps: Epsilon = 1e-30
    weight_decay: Weight = 0.0

    def rules(self, specs: Any) -> list[optax.GradientTransformation]:
        """Return Adafactor for each layer, weight decay and the learning rate."""
        whole = [
            optax.scale_by_factored_rms(
                decay_rate=self.decay_rate, min_dim_size_to_factor=self.min_dimension, epsilon=self.eps
            )
        ]
        if self.clip_threshold is not None:
            whole.append(optax.clip_by_block_rms(self.clip_threshold))
        if self.relative:
            whole.append(optax.scale_by_param_block_rms(self.min_scale))
        return [
            as_matrices(per_layer(optax.chain(*whole), specs), specs),
            *_weight_decay(self.weight_decay, specs),
            optax.scale_by_learning_rate(self.schedule.build()),
        ]


def decay_mask(specs: Any) -> Callable[[Params], Any]:
    """Return the function from (a part of) the parameters to a tree of bools: whether weight decay applies."""
    decays = {path: spec.decay for path, spec in flatten_specs(specs).items()}
    return lambda tree: jax.tree_util.tree_map_with_path(lambda path, leaf: decays[path_name(path)], tree)


def _weight_decay(rate: float, specs: Any) -> list[optax.GradientTransformation]:
    return [optax.add_decayed_weights(rate, mask=decay_mask(specs))] if rate else []

"""One layer on random numbers: the FLOPs and the compiled function of a training step, its forward and backward pass without an optimizer."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.scaling.timing import in_turns
from t2t.nn.feed_forward import FeedForwardConfig
from t2t.nn.initializers import fan_in
from t2t.nn.mixers import BuildOptions, Context, MixerConfig
from t2t.nn.parameters import Definition
from t2t.optim.paths import flatten_specs
from t2t.plan import flops


class Layer:
    """A mixer or a feed-forward layer, on `rows` rows of `length` tokens of `width` numbers."""

    def __init__(self, config: MixerConfig | FeedForwardConfig, width: int, rows: int, length: int, dtype: str) -> None:
        options = BuildOptions(width=width, kernel_init=lambda inputs, **_: fan_in(inputs))
        definition = Definition(config.build(options))
        segments = np.ones((rows, length), np.int32)
        positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), segments.shape)

        def loss(params: Any, x: jax.Array) -> jax.Array:
            context = Context(segments=segments, positions=positions)
            inputs = config.prepare(context, {}) if isinstance(config, MixerConfig) else None
            y, _ = definition.bind(params)(x, Context(segments=segments, positions=positions, inputs=inputs))
            return jnp.sum(jnp.square(y.astype(jnp.float32)))

        self.parameters = sum(math.prod(spec.shape) for spec in flatten_specs(definition.specs).values())
        self.gradient = jax.grad(loss, argnums=(0, 1))
        self.given = jax.ShapeDtypeStruct((rows, length, width), dtype)
        self._init: Callable[..., Any] = jax.jit(definition.init)

    @property
    def abstract(self) -> tuple[Any, jax.ShapeDtypeStruct]:
        """Shapes and types of the arguments of `gradient`: the parameters and the inputs."""
        return jax.eval_shape(self._init, jax.random.key(0)), self.given

    @property
    def flops(self) -> int:
        """FLOPs of the matrix products of a step."""
        return flops.dots(self.gradient, *self.abstract).total()

    def compiled(self) -> Callable[[], object]:
        """Return a function that runs one step and waits for it."""
        params = self._init(jax.random.key(0))
        x = jax.random.normal(jax.random.key(1), self.given.shape, self.given.dtype)
        step = jax.jit(self.gradient)
        return lambda: jax.block_until_ready(step(params, x))


def milliseconds(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median of each function, in interleaved rounds."""
    return {name: 1000 * statistics.median(times) for name, times in in_turns(runs, rounds).items()}

"""Time the training step of one layer of recurrent mixers beside that of attention: forward and backward pass, without an optimizer.

    python -m benchmarks.mixers [--width 512] [--lengths 512 4096] [--tokens 4096] [--rounds 7] [--equal flops] [--dtype float32]

Attention has as many heads of width 64 as give its layer the FLOPs of the mixer's, or its parameters (--equal parameters), with each of its portable backends.
The rounds are interleaved: each runs all layers once. A ratio is the median of the ratios within the rounds; above 1, the mixer is faster.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2t.nn.attention.config import AttentionConfig
from t2t.nn.initializers import fan_in
from t2t.nn.mixers import BuildOptions, Context, MixerConfig
from t2t.nn.parameters import Definition
from t2t.nn.recurrent.mamba import MambaConfig
from t2t.nn.recurrent.mamba2 import Mamba2Config
from t2t.optim.paths import flatten_specs
from t2t.plan import flops

HEAD = 64
BACKENDS = ("einsum", "chunked")


class Layer:
    """One layer, on rows of random numbers."""

    def __init__(self, config: MixerConfig, width: int, rows: int, length: int, dtype: str) -> None:
        options = BuildOptions(width=width, kernel_init=lambda inputs, **_: fan_in(inputs))
        definition = Definition(config.build(options))
        segments = np.ones((rows, length), np.int32)
        positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), segments.shape)

        def loss(params: Any, x: jax.Array) -> jax.Array:
            context = Context(segments=segments, positions=positions)
            inputs = config.prepare(context, {})
            y, _ = definition.bind(params)(x, Context(segments=segments, positions=positions, inputs=inputs))
            return jnp.sum(jnp.square(y.astype(jnp.float32)))

        self.parameters = sum(math.prod(spec.shape) for spec in flatten_specs(definition.specs).values())
        self._init: Callable[..., Any] = jax.jit(definition.init)
        self._gradient = jax.grad(loss, argnums=(0, 1))
        self._given = jax.ShapeDtypeStruct((rows, length, width), dtype)

    @property
    def flops(self) -> int:
        """FLOPs of the matrix products of a step."""
        params = jax.eval_shape(self._init, jax.random.key(0))
        return flops.dots(self._gradient, params, self._given).total()

    def compiled(self) -> Callable[[], float]:
        """Return a function that runs one step and returns its seconds."""
        params = self._init(jax.random.key(0))
        x = jax.random.normal(jax.random.key(1), self._given.shape, self._given.dtype)
        step = jax.jit(self._gradient)
        jax.block_until_ready(step(params, x))

        def run() -> float:
            before = time.perf_counter()
            jax.block_until_ready(step(params, x))
            return time.perf_counter() - before

        return run


def attention_like(mixer: Layer, equal: str, backend: Any, *shape: Any) -> tuple[Layer, int]:
    """Return the attention layer that is nearest to a mixer in FLOPs or parameters, and its number of heads."""

    def size(layer: Layer) -> int:
        return layer.flops if equal == "flops" else layer.parameters

    def made(heads: int) -> Layer:
        return Layer(AttentionConfig(num_heads=heads, head_dim=HEAD, backend=backend), *shape)

    wanted = size(mixer)
    heads = max(round(wanted / size(made(1))), 1)  # both grow in proportion to the heads
    return made(heads), heads


def main(arguments: list[str]) -> int:
    """Print a row for each mixer and length."""
    parser = argparse.ArgumentParser(prog="benchmarks.mixers", description=__doc__, allow_abbrev=False)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--equal", choices=("flops", "parameters"), default="flops")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--mixers", nargs="+", choices=("mamba", "mamba2"), default=["mamba2", "mamba"])
    parser.add_argument("--chunk", type=int, help="chunk of the mixers; default: their own")
    chosen = parser.parse_args(arguments)
    chunk = {} if chosen.chunk is None else {"chunk": chosen.chunk}
    inner = 2 * chosen.width
    configs: dict[str, MixerConfig] = {
        "mamba2": Mamba2Config(num_heads=inner // HEAD, head_dim=HEAD, **chunk),
        "mamba": MambaConfig(inner=inner, dt_rank=-(-chosen.width // 16), **chunk),
    }
    print("| mixer | length | ms | " + " | ".join(f"attention, {name}, ms | ratio" for name in BACKENDS) + " |")
    print("| --- " * (3 + 2 * len(BACKENDS)) + "|")
    for name in chosen.mixers:
        for length in chosen.lengths:
            shape = (chosen.width, max(chosen.tokens // length, 1), length, chosen.dtype)
            mixer = Layer(configs[name], *shape)
            others = [attention_like(mixer, chosen.equal, backend, *shape) for backend in BACKENDS]
            runs = [mixer.compiled(), *(layer.compiled() for layer, _ in others)]
            times = [[run() for run in runs] for _ in range(chosen.rounds)]
            own = 1000 * statistics.median(one[0] for one in times)
            cells = [name, f"{length:,}", f"{own:.0f}"]
            for place, (_, heads) in enumerate(others, start=1):
                ratio = statistics.median(one[place] / one[0] for one in times)
                cells += [
                    f"{1000 * statistics.median(one[place] for one in times):.0f} ({heads} heads)",
                    f"{ratio:.2f}",
                ]
            print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

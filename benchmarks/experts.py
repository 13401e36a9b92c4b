"""Time the training step of a layer with experts beside that of a dense layer with the FLOPs of its chosen experts: forward and backward pass, no optimizer.

    python -m benchmarks.experts [--width 512] [--inner 1024] [--experts 8] [--chosen 2] [--lengths 512] [--tokens 4096] [--rounds 7] [--dtype float32]

The dense layer is as wide as the experts of a token together. The ratio is the layer's median time divided by that of the dense layer, in interleaved rounds.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.layer import Layer, milliseconds
from t2t.nn.feed_forward import FeedForwardConfig
from t2t.nn.mlp import MLPConfig
from t2t.nn.moe.layer import MoEConfig

DENSE = "dense"


def main(arguments: list[str]) -> int:
    """Print a row for each layer and length."""
    parser = argparse.ArgumentParser(prog="benchmarks.experts", description=__doc__, allow_abbrev=False)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--inner", type=int, default=1024)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--chosen", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args(arguments)
    sizes = {"num_experts": given.experts, "experts_per_token": given.chosen, "inner": given.inner}
    configs: dict[str, FeedForwardConfig] = {
        DENSE: MLPConfig(inner=given.chosen * given.inner, activation="silu", gated=True),
        "experts, no limit": MoEConfig(**sizes),
        "experts, capacity 1.0": MoEConfig(**sizes, capacity=1.0),
        "experts, capacity 1.25": MoEConfig(**sizes, capacity=1.25),
    }
    print("| layer | length | GFLOP | ms | ratio |\n| --- | --- | --- | --- | --- |")
    for length in given.lengths:
        shape = (given.width, max(given.tokens // length, 1), length, given.dtype)
        layers = {name: Layer(config, *shape) for name, config in configs.items()}
        found = milliseconds({name: layer.compiled() for name, layer in layers.items()}, given.rounds)
        for name, layer in layers.items():
            cells = (name, f"{length:,}", f"{layer.flops / 1e9:.1f}", f"{found[name]:.0f}")
            print(f"| {' | '.join(cells)} | {found[name] / found[DENSE]:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

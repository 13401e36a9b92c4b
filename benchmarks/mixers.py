"""Time the training step of one layer of recurrent mixers beside that of attention: forward and backward pass, without an optimizer.

    python -m benchmarks.mixers [--width 512] [--lengths 512 4096] [--tokens 4096] [--rounds 7] [--equal flops] [--dtype float32]

Attention has as many heads of width 64 as give its layer the FLOPs of the mixer's, or its parameters (--equal parameters), with each of its portable backends.
The rounds are interleaved: each runs all layers once. The ratio is the mixer's median time divided by that of attention; below 1, the mixer is faster.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks.layer import Layer, milliseconds
from t2t.nn.attention.config import AttentionConfig
from t2t.nn.recurrent.mamba import MambaConfig
from t2t.nn.recurrent.mamba2 import Mamba2Config

HEAD = 64
BACKENDS = ("einsum", "chunked")


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
    parser.add_argument(
        "--chunks", type=int, nargs="+", default=[None], help="chunks of the mixers; default: their own"
    )
    chosen = parser.parse_args(arguments)
    print("| mixer | length | chunk | ms | " + " | ".join(f"attention, {name}, ms | ratio" for name in BACKENDS) + " |")
    print("| --- " * (4 + 2 * len(BACKENDS)) + "|")
    for name in chosen.mixers:
        for length in chosen.lengths:
            for chunk in chosen.chunks:
                print(_row(name, length, chunk, chosen), flush=True)
    return 0


def _row(name: str, length: int, chunk: int | None, chosen: argparse.Namespace) -> str:
    config = _config(name, chosen.width, {} if chunk is None else {"chunk": chunk})
    shape = (chosen.width, max(chosen.tokens // length, 1), length, chosen.dtype)
    mixer = Layer(config, *shape)
    others = {backend: attention_like(mixer, chosen.equal, backend, *shape) for backend in BACKENDS}
    runs = {name: mixer.compiled(), **{backend: layer.compiled() for backend, (layer, _) in others.items()}}
    found = milliseconds(runs, chosen.rounds)
    cells = [name, f"{length:,}", f"{config.chunk}", f"{found[name]:.0f}"]
    for backend, (_, heads) in others.items():
        cells += [f"{found[backend]:.0f} ({heads} heads)", f"{found[name] / found[backend]:.2f}"]
    return f"| {' | '.join(cells)} |"


def _config(name: str, width: int, chunk: dict[str, Any]) -> MambaConfig | Mamba2Config:
    inner = 2 * width
    if name == "mamba2":
        return Mamba2Config(num_heads=inner // HEAD, head_dim=HEAD, **chunk)
    return MambaConfig(inner=inner, dt_rank=-(-width // 16), **chunk)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

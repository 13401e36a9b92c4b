"""Time and memory of a decoding step of small decoders that differ in their mixers, after texts of several lengths.

    python -m benchmarks.decoding [--lengths 128 1024 8192] [--rows 1] [--width 256] [--layers 2] [--rounds 5] [--mixers ...] [--plot decoding.svg]

Each model processes a prompt and then decodes until the text has the given length, `STEPS` tokens in each round. The rounds of all models are interleaved.
The state is what a row keeps from one token to the next, in all layers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.layer import milliseconds
from t2t import models
from t2t.decode import prompt
from t2t.models.config import LayerOptions
from t2t.nn.attention.latent import Latent
from t2t.nn.mixers import MixerConfig
from t2t.nn.model import ModelConfig
from t2t.nn.recurrent.gated_delta_net import GatedDeltaNetConfig
from t2t.nn.recurrent.gated_linear_attention import GatedLinearAttentionConfig
from t2t.nn.recurrent.mamba import MambaConfig
from t2t.nn.recurrent.mamba2 import Mamba2Config
from t2t.nn.recurrent.retention import RetentionConfig
from t2t.types import Tokens

VOCABULARY = 256
STEPS = 16
WARM_UP = 2
"""Calls before the first round (`benchmarks.scaling.timing.in_turns`)."""
HEAD = 64


def _decoder(width: int, layers: int, mixer: MixerConfig | None = None, **options: Any) -> ModelConfig:
    """Return a decoder like LLaMA with this mixer, or with attention."""
    sizes: dict[str, Any] = {"num_layers": layers, "d_model": width, "num_heads": width // HEAD, "d_ff": 2 * width}
    if mixer is not None:
        sizes["pattern"] = (LayerOptions(mixer=mixer),)
    return models.llama.llama(**sizes, vocab_size=VOCABULARY, max_length=2**20, attention="chunked", **options)


def configs(width: int, layers: int) -> dict[str, ModelConfig]:
    """Return the models by name. Sizes of mixers are in the usual proportions to the width."""
    made, heads = partial(_decoder, width, layers), width // HEAD
    rwkv: dict[str, Any] = {"num_layers": layers, "d_model": width, "vocab_size": VOCABULARY}
    return {
        "attention": made(),
        "window of 256": made(window=256),
        "latent attention": made(head_dim=HEAD, latent=Latent(rank=width // 4, rotary_dim=HEAD // 2)),
        "Mamba": made(MambaConfig(inner=2 * width, dt_rank=-(-width // 16))),
        "Mamba-2": made(Mamba2Config(num_heads=2 * heads, head_dim=HEAD)),
        "retention": made(RetentionConfig(num_heads=heads, key_dim=HEAD, value_dim=2 * HEAD)),
        "gated linear attention": made(
            GatedLinearAttentionConfig(num_heads=4, key_dim=width // 8, value_dim=width // 4)
        ),
        "Gated DeltaNet": made(
            GatedDeltaNetConfig(num_heads=2 * heads, num_key_heads=heads, key_dim=HEAD, value_dim=HEAD)
        ),
        "RWKV-4": models.rwkv.rwkv4(**rwkv),
        "RWKV-7": models.rwkv.rwkv7(**rwkv),
    }


class Decoder:
    """A model that has processed all but the last `steps` tokens of rows of `length` tokens. A call decodes `STEPS` more."""

    def __init__(self, config: ModelConfig, rows: int, length: int, steps: int) -> None:
        model = config.build()
        self.params = jax.jit(model.init)(jax.random.key(0))
        ids = np.random.default_rng(0).integers(1, VOCABULARY, (rows, length - steps)).astype(np.int32)
        positions = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
        read = prompt(decoder=Tokens(ids=ids, positions=positions, segments=np.ones_like(ids)))
        logits, self.cache = jax.jit(model.start, static_argnums=2)(self.params, read, length)
        self.ids = jnp.argmax(logits, axis=-1)

        def decoded(params: Any, cache: Any, ids: jax.Array) -> tuple[Any, jax.Array]:
            step = model.stepper(params)

            def body(carry: tuple[Any, jax.Array], _: None) -> tuple[tuple[Any, jax.Array], None]:
                logits, cache = step(*carry)
                return (cache, jnp.argmax(logits, axis=-1)), None

            return jax.lax.scan(body, (cache, ids), length=STEPS)[0]

        self._decoded: Callable[..., tuple[Any, jax.Array]] = jax.jit(decoded, donate_argnums=1)

    @property
    def state_bytes(self) -> float:
        """Bytes of the state of one row."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.cache["layers"])) / self.ids.shape[0]

    def __call__(self) -> None:
        """Decode `STEPS` tokens in each row."""
        self.cache, self.ids = jax.block_until_ready(self._decoded(self.params, self.cache, self.ids))


def measure(
    wanted: Mapping[str, ModelConfig], lengths: list[int], rows: int, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Return the milliseconds of a step and the bytes of the state of a row, for each model and length."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    for length in lengths:
        steps = (rounds + WARM_UP) * STEPS
        decoders = {name: Decoder(config, rows, length, steps) for name, config in wanted.items()}
        times = milliseconds(decoders, rounds)
        for name, decoder in decoders.items():
            found[name].append((times[name] / STEPS, decoder.state_bytes))
    return found


def table(found: Mapping[str, list[tuple[float, float]]], lengths: list[int]) -> str:
    """Return a Markdown table."""
    shown = [f"{length:,}" for length in lengths]
    head = ["mixer", *(f"ms, {length}" for length in shown), *(f"state kB, {length}" for length in shown)]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, values in found.items():
        cells = [name, *(f"{time:.2f}" for time, _ in values), *(f"{size / 1000:,.0f}" for _, size in values)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(found: Mapping[str, list[tuple[float, float]]], lengths: list[int], path: Path) -> None:
    """Plot time and state by length. The suffix of `path` sets the format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, both = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, place, title in zip(both, (0, 1), ("ms for a token", "bytes of state of a row"), strict=True):
        for name, values in found.items():
            axes.plot(lengths, [value[place] for value in values], marker="o", markersize=3, label=name)
        axes.set(xscale="log", yscale="log", xlabel="tokens before", title=title)
    figure.legend(*both[1].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)


def main(arguments: list[str]) -> int:
    """Print a row for each mixer."""
    parser = argparse.ArgumentParser(prog="benchmarks.decoding", description=__doc__, allow_abbrev=False)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 1024, 8192])
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mixers", nargs="+", help="names in the table; default: all")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args(arguments)
    known = configs(given.width, given.layers)
    names = given.mixers or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown mixer {unknown[0]!r} (--mixers). Known: {', '.join(known)}")
    if (least := (given.rounds + WARM_UP) * STEPS + 1) > min(given.lengths):
        parser.error(f"{given.rounds} rounds need texts of at least {least} tokens (--lengths)")
    found = measure({name: known[name] for name in names}, given.lengths, given.rows, given.rounds)
    print(table(found, given.lengths))
    if given.plot is not None:
        picture(found, given.lengths, given.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

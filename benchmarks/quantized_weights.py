"""Compare the formats of quantized weights on a run: perplexity of a text, or accuracy on a file of texts with labels.

    python -m benchmarks.quantized_weights perplexity RUN TEXT [--tokens 2048] [--length 256] [--formats none int8 ...]
    python -m benchmarks.quantized_weights accuracy RUN JSONL --text FIELD --label FIELD [--examples 500] [--formats none int8 ...]

TEXT is a text file; its first tokens are read in windows of the given length, each without context. JSONL has a text and its label in each line.
Each row has the bytes of all parameters in memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

import t2t
from t2t.nn.weights import Quantize
from t2t.types import Batch, Tokens


def perplexity(run: Any, text: str, count: int, length: int) -> float:
    """Return the perplexity of the first `count` tokens of a text, in windows of `length`, for a decoder."""
    ids = np.asarray(run.vocabulary.encode(text)[:count], np.int32).reshape(-1, length)
    start = np.full_like(ids[:, :1], run.vocabulary.bos_id)
    given = np.concatenate([start, ids[:, :-1]], axis=1)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)

    @jax.jit
    def nats(params: Any, given: jax.Array, wanted: jax.Array) -> jax.Array:
        tokens = Tokens(ids=given, positions=positions[:1], segments=jnp.ones_like(given))
        batch = Batch(encoder=None, decoder=tokens, targets=wanted, weights=jnp.ones(wanted.shape))
        logits = jax.nn.log_softmax(run.model.logits(params, batch))
        return -jnp.take_along_axis(logits, wanted[..., None], axis=-1).sum()

    total = sum(float(nats(run.parameters, given[i : i + 1], ids[i : i + 1])) for i in range(len(ids)))
    return float(np.exp(total / ids.size))


def accuracy(run: Any, texts: list[str], labels: list[str]) -> float:
    """Return the share of texts whose label the run predicts."""
    found = run.classify(texts)
    return float(np.mean([one.text == label for one, label in zip(found, labels, strict=True)]))


def main() -> None:
    """Print a row for each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=("perplexity", "accuracy"))
    parser.add_argument("run")
    parser.add_argument("file", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--text", default="inputs")
    parser.add_argument("--label", default="targets")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--formats", nargs="*", default=get_args(Quantize))
    parser.add_argument("--import", dest="imports", nargs="*", default=())
    chosen = parser.parse_args()
    print(f"| format | parameters, MB | {chosen.measure} |\n| --- | --- | --- |")
    for format in chosen.formats:
        run = t2t.load(chosen.run, quantize=format, imports=chosen.imports)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(run.parameters)) / 1e6
        if chosen.measure == "perplexity":
            value = perplexity(run, chosen.file.read_text(encoding="utf-8"), chosen.tokens, chosen.length)
        else:
            with chosen.file.open(encoding="utf-8") as lines:
                rows = [json.loads(line) for line in itertools.islice(lines, chosen.examples)]
            value = accuracy(run, [row[chosen.text] for row in rows], [row[chosen.label] for row in rows])
        print(f"| `{format}` | {size:,.1f} | {value:.4f} |", flush=True)
        run.forget_parameters()


if __name__ == "__main__":
    main()

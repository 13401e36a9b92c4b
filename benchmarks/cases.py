"""The benchmark cases, as data for the harness and all peers. This module only uses the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TRAIN = ("t5", "gpt2", "bert", "decoder", "llama")
"""Models to train: T5 1.1, GPT-2, BERT, the decoder-only network of T5X (relative positions, gated GELU, tied), LLaMA."""
DECODE = ("t5", "gpt2", "decoder")
DATA = ("span_corruption", "span_corruption_merged")
"""Span corruption of separate texts, packed afterwards; or of texts that are joined and cut to whole rows first (as in T5), if the peer supports it."""
LAYERS = ("attention", "mamba", "mamba2", "rwkv4", "gated_delta_net", "experts", "bitnet")
"""Layers to time alone: forward and backward pass, see `benchmarks.published_layers`."""
OPTIMIZERS = ("adamw", "adafactor")
DECODINGS = ("greedy", "sampling", "beam")
BEAM = 4
TOP_K = 40
CLIP_NORM = 1.0
"""For AdamW; Adafactor has its own clipping."""
RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a model and its inputs.

    num_layers: layers of each stack.
    rows:       rows of a training batch.
    inputs:     tokens in a row of inputs, or in a row of a decoder-only or encoder-only model.
    targets:    tokens in a row of targets.
    prompt:     tokens in a prompt of a decoder-only model; encoder-decoders get `inputs` tokens.
    new:        tokens to generate.
    positions:  size of the learned position table, for models that have one.
    texts:      number of texts in the corpus for data cases.
    mean_text:  their mean length in tokens.
    """

    num_layers: int
    d_model: int
    num_heads: int
    vocab_size: int
    rows: int
    inputs: int
    targets: int
    prompt: int
    new: int
    positions: int
    texts: int
    mean_text: int

    @property
    def head_dim(self) -> int:
        """Dimension of an attention head."""
        return self.d_model // self.num_heads


SCALES = {
    "full": Sizes(
        num_layers=4,
        d_model=256,
        num_heads=4,
        vocab_size=32_128,
        rows=16,
        inputs=256,
        targets=64,
        prompt=64,
        new=64,
        positions=512,
        texts=20_000,
        mean_text=200,
    ),
    "tiny": Sizes(
        num_layers=2,
        d_model=32,
        num_heads=2,
        vocab_size=256,
        rows=2,
        inputs=16,
        targets=8,
        prompt=8,
        new=8,
        positions=32,
        texts=2_000,
        mean_text=100,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case to measure.

    work:      "train" (one step), "layer" (forward and backward pass of one layer), "decode" (one batch of prompts) or "data" (`DATA_BATCHES` batches).
    optimizer: for "train".
    decoding:  for "decode".
    rows:      number of prompts, for "decode".
    """

    work: str
    model: str
    scale: str = "full"
    optimizer: str = ""
    decoding: str = ""
    rows: int = 0

    @property
    def name(self) -> str:
        """Name in tables."""
        parts = (self.model, self.optimizer, self.decoding, f"{self.rows} rows" if self.rows else "")
        return f"{self.work}: {' '.join(part for part in parts if part)}"

    @property
    def sizes(self) -> Sizes:
        """Sizes of its scale."""
        return SCALES[self.scale]

    @property
    def d_ff(self) -> int:
        """Hidden dimension of the feed-forward networks. Gated networks have two input matrices of this width."""
        return self.sizes.d_model * (4 if self.model in ("gpt2", "bert") else 2)

    @property
    def length(self) -> int:
        """Tokens in a row of a decoder-only or encoder-only model."""
        return self.sizes.inputs


DATA_LENGTHS = {"inputs": 512, "targets": 114}
"""The lengths of T5: 568 tokens of text become 512 tokens of inputs and 114 tokens of targets."""
DATA_ROWS = 64
DATA_BATCHES = 8
NOISE_DENSITY = 0.15
MEAN_SPAN = 3.0


def train_cases(models: Sequence[str], optimizers: Sequence[str], scale: str) -> list[Case]:
    """Return one case per model and optimizer."""
    return [
        Case(work="train", model=model, optimizer=optimizer, scale=scale)
        for model in models
        for optimizer in optimizers
    ]


def layer_cases(models: Sequence[str], scale: str) -> list[Case]:
    """Return one case per layer."""
    return [Case(work="layer", model=model, scale=scale) for model in models]


def decode_cases(models: Sequence[str], decodings: Sequence[str], rows: Sequence[int], scale: str) -> list[Case]:
    """Return one case per model, decoding method and number of prompts."""
    return [
        Case(work="decode", model=model, decoding=decoding, rows=number, scale=scale)
        for model in models
        for decoding in decodings
        for number in rows
    ]


def data_cases(models: Sequence[str], scale: str) -> list[Case]:
    """Return one case per method of span corruption."""
    return [Case(work="data", model=model, scale=scale) for model in models]

"""What is measured, as data that the harness and all peers read alike. Nothing but the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TRAIN = ("t5", "gpt2", "bert", "decoder", "llama")
"""Models that are trained: T5 1.1, GPT-2, BERT, T5X's own decoder-only network (relative positions, gated GELU, tied), LLaMA."""
DECODE = ("t5", "gpt2", "decoder")
DATA = ("span_corruption", "span_corruption_merged")
"""Of texts each on its own, packed afterwards; or, where the peer can, of texts joined and cut to whole rows first (T5's own way)."""
OPTIMIZERS = ("adamw", "adafactor")
DECODINGS = ("greedy", "sampling", "beam")
BEAM = 4
TOP_K = 40
CLIP_NORM = 1.0
"""AdamW's; Adafactor has its own clipping."""
RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A model's and its inputs' sizes.

    num_layers:  of each stack.
    rows:    of a training batch; inputs and targets: their lengths (a model of one stack has rows of `inputs` tokens).
    prompt:  tokens before the generated ones; an encoder-decoder's inputs have `inputs`. new: tokens to generate.
    positions: that models with learned positions have.
    texts:   of the corpus that data is made of; mean_text: their mean length in tokens.
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
        """Width of an attention head."""
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
    """One thing to measure.

    work:      "train" (a step), "decode" (a batch of prompts) or "data" (`DATA_BATCHES` batches).
    optimizer: of "train". decoding, rows: of "decode".
    """

    work: str
    model: str
    scale: str = "full"
    optimizer: str = ""
    decoding: str = ""
    rows: int = 0

    @property
    def name(self) -> str:
        """What tables call it."""
        parts = (self.model, self.optimizer, self.decoding, f"{self.rows} rows" if self.rows else "")
        return f"{self.work}: {' '.join(part for part in parts if part)}"

    @property
    def sizes(self) -> Sizes:
        """The sizes of its scale."""
        return SCALES[self.scale]

    @property
    def d_ff(self) -> int:
        """Inner width of the feed-forward networks; gated ones have two matrices that wide."""
        return self.sizes.d_model * (4 if self.model in ("gpt2", "bert") else 2)

    @property
    def length(self) -> int:
        """Tokens of a row of a model of one stack."""
        return self.sizes.inputs


DATA_LENGTHS = {"inputs": 512, "targets": 114}
"""T5's own: 568 tokens of text fill 512 of inputs, and targets of 114."""
DATA_ROWS = 64
DATA_BATCHES = 8
NOISE_DENSITY = 0.15
MEAN_SPAN = 3.0


def train_cases(models: Sequence[str], optimizers: Sequence[str], scale: str) -> list[Case]:
    """Return a case for each model and optimizer."""
    return [
        Case(work="train", model=model, optimizer=optimizer, scale=scale)
        for model in models
        for optimizer in optimizers
    ]


def decode_cases(models: Sequence[str], decodings: Sequence[str], rows: Sequence[int], scale: str) -> list[Case]:
    """Return a case for each model, way of decoding and number of prompts."""
    return [
        Case(work="decode", model=model, decoding=decoding, rows=number, scale=scale)
        for model in models
        for decoding in decodings
        for number in rows
    ]


def data_cases(models: Sequence[str], scale: str) -> list[Case]:
    """Return a case for each way of making data."""
    return [Case(work="data", model=model, scale=scale) for model in models]

"""Settings to plan and measure presets whose training settings are not published."""

from __future__ import annotations

import sys

from t2t import models
from t2t.api.machines import for_accelerators, mesh_for
from t2t.data import Data
from t2t.models import DecoderConfig, EncoderDecoderConfig
from t2t.nn.model import ModelConfig
from t2t.optim import AdamW
from t2t.train.experiment import Experiment

DECODER, OTHER = 4096, 512
"""Tokens of a row for decoders, and for encoders and encoder-decoders, if the preset has no shorter limit."""

ROWS = 256
"""Rows of a batch: with the rows of a decoder, a million tokens."""


def assumed(preset: str) -> Experiment:
    """Return an experiment that trains a preset with common settings, which no paper gives.

    Decoders learn causal language modelling, encoder-decoders span corruption and encoders masked language modelling, all on C4 with AdamW. One line on
    standard error says so. Memory and time of a step depend on these settings, so options should replace those that differ in a real training.
    """
    config = models.preset(preset)
    usual = DECODER if isinstance(config, DecoderConfig) else OTHER
    length = min(usual, config.max_length or usual)
    data = _data(config, length)
    config = for_accelerators(config, length)
    print(
        f"{preset}: its training settings are not published. Assumed: {data.task} in {data.batch_size} rows of {length:,} tokens, AdamW. Options change them.",
        file=sys.stderr,
    )
    return Experiment(model=config, data=data, optimizer=AdamW(), mesh=mesh_for(config))


def _data(config: ModelConfig, length: int) -> Data:
    if isinstance(config, DecoderConfig):
        return Data(
            task="c4_causal_lm", inputs_length=1, targets_length=length - 1, batch_size=ROWS, loss_on_inputs=1.0
        )
    if isinstance(config, EncoderDecoderConfig):
        # Span corruption of 512 tokens has 114 targets (Raffel et al. 2020, section 3.1.4).
        return Data(
            task="c4_span_corruption", inputs_length=length, targets_length=-(-length * 114 // 512), batch_size=ROWS
        )
    return Data(task="c4_masked_lm", inputs_length=length, targets_length=length, batch_size=ROWS)

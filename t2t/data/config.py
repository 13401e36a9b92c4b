"""What data a run reads. Imports neither SeqIO nor TensorFlow, so that a run's configuration is read without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t2t.errors import UserError
from t2t.limits import Configuration, CountOrZero, Length, Parts, Rows, Seed, Weight
from t2t.paths import LocalPath
from t2t.vocabularies import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Data(Configuration):
    """A task or mixture and how its examples fill rows.

    Args:
        task: name of a SeqIO task or mixture.
        inputs_length: tokens a row has for inputs (encoder), or inputs' share of a decoder's row.
        targets_length: tokens a row has for targets (decoder).
        batch_size: rows in a global batch, over all hosts. Must be a multiple of `shards`.
        split: of the task to train on.
        pack: several examples to a row, kept apart by segment ids.
        shards: virtual shards with an iterator each. Fixed for the life of a run: the batches depend on it, not on the number of hosts.
        seed: of shuffling and of the objectives' random choices; None takes the run's seed.
        shuffle_buffer: examples a shard holds to draw from; 0 reads in order. Cached tasks need none: any other number draws from all examples.
        loss_on_inputs: decoders only: weight of the inputs' tokens in the loss, a target's being 1. 0.0 predicts the targets alone, 1.0 all alike; GPT-1 was
            fine-tuned with 0.5 (Radford et al. 2018, sections 3.2 and 4.1, lambda).
        vocabulary: replaces the task's own.
        cached: directory that `t2t cache` prepared the task in, or each task of the mixture; None reads their sources.
    """

    task: str
    inputs_length: Length = 512
    targets_length: Length = 128
    batch_size: Rows = 64
    split: str = "train"
    pack: bool = True
    shards: Parts = 8
    seed: Seed | None = None
    shuffle_buffer: CountOrZero = 1000
    loss_on_inputs: Weight = 0.0
    vocabulary: Vocabulary | None = None
    cached: LocalPath | None = None

    def __post_init__(self) -> None:
        weight = self.loss_on_inputs
        if isinstance(weight, bool):
            raise UserError(
                f"data.loss_on_inputs {weight} (--data.loss-on-inputs) is a weight now. Nearest: {float(weight)}."
            )
        super().__post_init__()

    @classmethod
    def upgraded(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the fields of a run.json as they are called and meant now: `loss_on_inputs` was true or false once."""
        weight = fields.get("loss_on_inputs")
        return {**fields, "loss_on_inputs": float(weight)} if isinstance(weight, bool) else fields

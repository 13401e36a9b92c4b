"""The data configuration of a run. Imports neither SeqIO nor TensorFlow, so a run's configuration can be read without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t2t.data.ramp import Ramp, parse
from t2t.errors import UserError
from t2t.limits import Configuration, CountOrZero, Length, Parts, Rows, Seed, Weight
from t2t.paths import LocalPath
from t2t.vocabularies import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Data(Configuration):
    """A task or mixture, and how its examples are arranged in rows.

    Args:
        task: name of a SeqIO task or mixture.
        inputs_length: maximum number of input tokens in a row. A decoder's row has inputs_length + targets_length tokens.
        targets_length: maximum number of target tokens in a row. Encoders ignore it.
        batch_size: rows in a global batch, over all hosts. Must be a multiple of `shards`.
        batch_ramp: smaller batches at the start: "0:256,1000:512" has 256 rows from step 0 on, and 512 from step 1000 on. The last size must be
            `batch_size`. None has batches of one size.
        split: split of the task to train on.
        pack: put several examples in a row. Segment ids keep them separate.
        shards: number of virtual shards, each with its own iterator. Fixed for the life of a run: the batches depend on it, not on the number of hosts.
        seed: seed for shuffling and for the random choices of objectives. None uses the run's seed.
        shuffle_buffer: size of each shard's shuffle buffer, in examples. 0 reads in order. Cached tasks need no buffer: any other value shuffles all examples.
        loss_on_inputs: for decoders: weight of the input tokens in the loss. Targets have weight 1. 0.0 trains on the targets only, 1.0 on all tokens equally.
            GPT-1 was fine-tuned with 0.5 (Radford et al. 2018, sections 3.2 and 4.1, lambda).
        vocabulary: vocabulary to use instead of the task's own.
        cached: directory in which `t2t cache` prepared the task, or each task of the mixture. None reads the original sources.
    """

    task: str
    inputs_length: Length = 512
    targets_length: Length = 128
    batch_size: Rows = 64
    batch_ramp: str | None = None
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
                f"data.loss_on_inputs {weight} (--data.loss-on-inputs) must be a number, the weight of the inputs. Nearest: {float(weight)}."
            )
        super().__post_init__()
        _ = self.ramp  # raises UserError if it cannot be read

    @property
    def ramp(self) -> Ramp:
        """The rows of each batch."""
        return Ramp((0,), (self.batch_size,)) if self.batch_ramp is None else parse(self.batch_ramp)

    @classmethod
    def upgraded(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the fields of an older run.json in the current format: `loss_on_inputs` was a boolean."""
        weight = fields.get("loss_on_inputs")
        return {**fields, "loss_on_inputs": float(weight)} if isinstance(weight, bool) else fields

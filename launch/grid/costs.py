"""Costs of a training: parameters, tokens, operations and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from t2t.api.run_files import read_run
from t2t.optim.paths import flatten_specs
from t2t.plan.flops import count
from t2t.train import ledger
from t2t.train.experiment import Experiment
from t2t.train.program import Program


@dataclass(frozen=True, kw_only=True)
class DecodingCosts:
    """Costs of decoding one more token of one row.

    tokens:  number of tokens before it.
    bytes:   what the layers store about these tokens.
    seconds: time of a step.
    """

    tokens: int
    bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of a training.

    parameters: number of parameters.
    tokens:     input and target tokens, without padding.
    places:     the same with padding.
    flops:      FLOPs of all steps: 3 times the matrix products of the forward pass (see `t2t.plan.flops`).
    seconds:    time of the steps only: no startup, compilation, evaluation or checkpoint.
    decoding:   costs of decoding after different numbers of tokens.
    """

    parameters: int
    tokens: float
    places: int
    flops: float
    seconds: float
    decoding: tuple[DecodingCosts, ...] = ()

    @classmethod
    def of(cls, experiment: Experiment, directory: Path, decoding: Sequence[DecodingCosts] = ()) -> Costs:
        """Return the costs of a finished run."""
        program = Program.of(experiment, experiment.mesh.build())
        batch, rows = program.abstract_batch(), experiment.data.ramp.up_to(experiment.steps)
        streams = [stream.ids for stream in (batch.encoder, batch.decoder) if stream is not None]
        times = ledger.read(directory).seconds
        return cls(
            parameters=sum(spec.size for spec in flatten_specs(program.model.specs).values()),
            tokens=_tokens(directory),
            places=rows * sum(ids.shape[1] for ids in streams),
            flops=count(program).model * rows / experiment.data.batch_size,
            seconds=times["train"] + times["data"],
            decoding=tuple(decoding),
        )


def _tokens(directory: Path) -> float:
    """Sum the tokens in metrics.jsonl: each line has tokens per second and seconds per step since the previous line."""
    found = read_run(directory, rows=0).series
    rates, times = dict(found["tokens_per_second"]), dict(found["step_seconds"])
    total, last = 0.0, 0
    for step in sorted(rates):
        total += rates[step] * times[step] * (step - last)
        last = step
    return total

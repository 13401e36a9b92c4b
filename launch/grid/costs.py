"""What a training cost: parameters, tokens, operations and time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from t2t.api.run_files import read_run
from t2t.optim.paths import flatten_specs
from t2t.plan.flops import count
from t2t.train import ledger
from t2t.train.experiment import Experiment
from t2t.train.program import Program


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a training cost.

    parameters: of the model.
    tokens:     inputs and targets that were trained on, padding left out.
    places:     the same with padding: what was computed.
    flops:      of all steps, 3 times the forward pass's matrix products (see `t2t.plan.flops`).
    seconds:    of steps alone: no start, compilation, evaluation or checkpoint.
    """

    parameters: int
    tokens: float
    places: int
    flops: float
    seconds: float

    @classmethod
    def of(cls, experiment: Experiment, directory: Path) -> Costs:
        """Return the costs of a finished run."""
        program = Program.of(experiment, experiment.mesh.build())
        batch = program.abstract_batch()
        streams = [stream.ids for stream in (batch.encoder, batch.decoder) if stream is not None]
        times = ledger.read(directory).seconds
        return cls(
            parameters=sum(math.prod(spec.shape) for spec in flatten_specs(program.model.specs).values()),
            tokens=_tokens(directory),
            places=experiment.steps * sum(math.prod(ids.shape) for ids in streams),
            flops=count(program).model * experiment.steps,
            seconds=times["train"] + times["data"],
        )


def _tokens(directory: Path) -> float:
    """Add up metrics.jsonl: each line has the rate and the time of a step since the line before."""
    found = read_run(directory, rows=0).series
    rates, times = dict(found["tokens_per_second"]), dict(found["step_seconds"])
    total, last = 0.0, 0
    for step in sorted(rates):
        total += rates[step] * times[step] * (step - last)
        last = step
    return total

"""Small workloads to measure."""

from __future__ import annotations

import jax

from t2t import models
from t2t.data import Data
from t2t.launch.bench.ceilings import Ceilings
from t2t.launch.bench.timing import Limits
from t2t.launch.bench.workload import Workload
from t2t.optim import AdamW, Constant
from t2t.sharding import MeshConfig
from t2t.train.experiment import Experiment

QUICK = Limits(repeats=2, seconds=0.01)
CEILINGS = Ceilings(matmul={"float32": 1e9, "bfloat16": 2e9}, copy=1e8)
SIZES = {"num_layers": 2, "d_model": 16, "num_heads": 2, "vocab_size": 384, "dropout": 0.0}
FAMILIES = {
    "decoder": lambda **more: models.llama.llama(**{**SIZES, "d_ff": 24, "max_length": 48, **more}),
    "encoder": lambda **more: models.bert.bert(**{**SIZES, "max_length": 48, **more}),
    "encoder_decoder": lambda **more: models.t5.t5(**{**SIZES, "d_ff": 24, "version": "1.1", **more}),
}


def workload(kind: str = "decoder", *, mesh: MeshConfig | None = None, model: dict | None = None, **more) -> Workload:
    """Return the workload of a tiny model with batches of 8 rows, on one device by default."""
    experiment = Experiment(
        model=FAMILIES[kind](**(model or {})),
        data=Data(task="reverse_words", inputs_length=24, targets_length=16, batch_size=8, shards=2),
        optimizer=AdamW(schedule=Constant(peak=1e-3)),
        mesh=mesh or MeshConfig(),
        log_every=2,
    )
    devices = tuple(jax.devices()[: 1 if mesh is None else mesh.data * mesh.tensor])
    settings = {"recipe": kind, "experiment": experiment, "limits": QUICK, "ceilings": CEILINGS, "devices": devices}
    return Workload(**{**settings, **more})


def named(measured: list) -> dict:
    """Return measurements by name. Names must be unique."""
    found = {it.name: it for it in measured}
    assert len(found) == len(measured)
    return found

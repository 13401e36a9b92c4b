"""Memory of a step: the estimate of `t2t plan`, the requirement of the compiled program, and the measured memory of the process.

The measured memory is the peak of resident memory while the process creates and updates a state, minus the resident memory after compilation. The
process uses one core and one malloc arena, and returns large blocks to the system immediately, so that nothing else adds to the peak.
"""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks.scaling.experiments import OPTIMIZERS, device_batch, experiment
from benchmarks.scaling.part import Part, Point, Rows, Table, Values
from t2t.optim.paths import flatten_specs
from t2t.plan.estimate import estimate
from t2t.plan.hlo import HloModule
from t2t.plan.memory import compiled_memory
from t2t.plan.topology import Topology
from t2t.train.program import Program

WITHIN = 0.10
REMATS = ("none", "dots", "dots_no_batch", "full")
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "MALLOC_TRIM_THRESHOLD_": "0",
}
MODELS: dict[str, dict[str, Any]] = {
    "decoder": {"num_layers": 8, "d_model": 512, "num_heads": 8, "d_ff": 2048, "vocab_size": 8192, "length": 256},
    "encoder_decoder": {
        **{"num_layers": 6, "d_model": 512, "num_heads": 8, "head_dim": 64, "d_ff": 1024, "vocab_size": 8192},
        **{"length": 256, "targets_length": 128},
    },
}
OTHERS: dict[str, dict[str, Any]] = {
    "decoder-wide": {
        "num_layers": 4,
        "d_model": 1024,
        "num_heads": 16,
        "d_ff": 4096,
        "vocab_size": 32128,
        "length": 128,
    },
    "decoder-long": {
        **{"num_layers": 4, "d_model": 256, "num_heads": 4, "d_ff": 1024, "vocab_size": 8192},
        "length": 1024,
        "rows": 4,
    },
    "decoder-rows": {
        **{"num_layers": 6, "d_model": 256, "num_heads": 4, "d_ff": 1024, "vocab_size": 2048},
        "length": 128,
        "rows": 64,
    },
    "encoder": {"num_layers": 6, "d_model": 384, "num_heads": 6, "d_ff": 1536, "vocab_size": 30522, "length": 256},
    "encoder_decoder-words": {
        **{"num_layers": 4, "d_model": 256, "num_heads": 4, "head_dim": 64, "d_ff": 512, "vocab_size": 32128},
        **{"length": 512, "targets_length": 114},
    },
}
"""Models with other widths, lengths, vocabularies and numbers of rows, and an encoder."""
UNSEEN = ("encoder", "encoder_decoder-words")
"""Models that were not used to choose the terms of the estimate. Only these are an independent check."""
ROWS = 8
HOST = Topology.parse("h100:1x1")
"""A machine with one device. Its kind does not matter: the memory of a step only depends on the program."""


def points(rounds: int) -> Mapping[str, Point]:
    """Return one point per combination of model, optimizer and remat policy."""
    cases = [("decoder", "adamw", remat) for remat in REMATS]
    cases += [("decoder", "adafactor", "none"), ("decoder", "adafactor", "full")]
    cases += [("encoder_decoder", name, remat) for name in OPTIMIZERS for remat in ("none", "full")]
    cases += [(kind, "adamw", remat) for kind in OTHERS for remat in ("none", "full")]
    cases += [(kind, "adafactor", "none") for kind in ("decoder-wide", "encoder")]
    return {
        f"{kind} {optimizer} {remat}": Point(
            arguments={"kind": kind, "optimizer": optimizer, "remat": remat, "rounds": rounds},
            environment=ENVIRONMENT,
            cores=1,
        )
        for kind, optimizer, remat in cases
    }


def measure(kind: str, optimizer: str, remat: str, rounds: int) -> Values:
    """Return the estimated and compiled bytes by purpose, and the measured peak over `rounds` updates."""
    sizes = {"rows": ROWS, **{**MODELS, **OTHERS}[kind]}
    config = experiment(kind.partition("-")[0], batch_size=sizes.pop("rows"), optimizer=optimizer, remat=remat, **sizes)
    program = Program.of(config, config.mesh.build())
    estimated = estimate(program, HOST).memory
    batch = device_batch(program)
    step = _compiled(program.step(), program.abstract_state(), program.abstract_batch())
    compiled = compiled_memory(program, HloModule(step.as_text() or ""), step.memory_analysis())
    create = _compiled(jax.jit(program.create), 0)
    before = settled_memory()
    state = jax.block_until_ready(create(0))
    reset_peak()
    for _ in range(rounds):
        state, _ = jax.block_until_ready(step(state, batch))
    peak = resident("VmHWM") - before + estimated.batch
    return {
        "entries": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "parameters": len(flatten_specs(program.model.specs)),
        "estimate": {**vars(estimated), "total": estimated.total},
        "compiled": {**vars(compiled), "total": compiled.total},
        "peak": peak,
    }


def _compiled(function: Any, *arguments: Any) -> Any:
    return function.lower(*arguments).compile()


def settled_memory() -> int:
    """Free all unused memory and return the resident bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident("VmRSS")


def reset_peak() -> None:
    """Reset the peak of resident memory to the current value (man 5 proc, clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident(what: str) -> int:
    """Return VmRSS (resident memory) or VmHWM (its peak), in bytes."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None, "Linux reports it"
    return int(found[1]) * 1024


def without_code(memory: Mapping[str, float]) -> float:
    """Return the total without the size of the program, which is loaded before the measurement starts."""
    return memory["total"] - memory["code"]


def table(rows: Rows) -> Table:
    """Return one line per point, in MB."""
    cells, far, optimizers = [], [], {}
    for name, values in rows.items():
        estimated, compiled, peak = values["estimate"], values["compiled"], values["peak"]
        ratios = [without_code(memory) / peak for memory in (estimated, compiled)]
        state = [f"{estimated[what] / 1e6:.0f}" for what in ("parameters", "optimizer", "gradients")]
        both = [
            f"{memory[what] / 1e6:.0f}" for what in ("activations", "temporaries") for memory in (estimated, compiled)
        ]
        totals = [f"{size / 1e6:.0f}" for size in (without_code(estimated), without_code(compiled), peak)]
        cells.append([name, *state, *both, *totals, *(f"{ratio:.2f}" for ratio in ratios)])
        if abs(ratios[0] - 1) > WITHIN:
            far.append(name)
        optimizers[name.split(" ")[1]] = [
            f"{estimated[what] / values['entries']:.2f}" for what in ("parameters", "gradients", "optimizer")
        ]
    header = (
        *("", "parameters", "optimizer", "gradients", "activations est.", "comp.", "temporaries est.", "comp."),
        *("total est.", "compiled", "measured MB", "est./measured", "comp./measured"),
    )
    notes = [
        f"{name}: bytes per parameter: {parameter} for the parameter, {gradient} for its gradient, {state} for the optimizer state"
        for name, (parameter, gradient, state) in optimizers.items()
    ]
    notes.append(f"not used to choose the terms of the estimate, so an independent check: {', '.join(UNSEEN)}")
    notes.append(f"estimates not within {WITHIN:.0%} of the measured memory: {', '.join(far) or 'none'}")
    return Table(header, cells, notes)


def draw(figure: Any, rows: Rows) -> None:
    """Plot the three totals side by side."""
    axis = figure.subplots()
    for place, (label, of) in enumerate(
        (
            ("estimated", lambda values: without_code(values["estimate"])),
            ("compiled", lambda values: without_code(values["compiled"])),
            ("measured", lambda values: values["peak"]),
        )
    ):
        places = [at + 0.27 * place for at in range(len(rows))]
        axis.barh(places, [of(values) / 1e6 for values in rows.values()], height=0.25, label=label)
    axis.set_yticks([at + 0.27 for at in range(len(rows))], list(rows), fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("MB")
    axis.legend(frameon=False, fontsize=8)


PART = Part(name="memory", about=__doc__, points=points, measure=measure, table=table, draw=draw, rounds=3)

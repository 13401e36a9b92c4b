"""Memory of a step: what `t2t plan` estimates, what the compiled program says, and what a process takes.

The process's is its peak of resident memory while it makes and updates a state, over what it held when all was compiled. It uses one core and one arena,
and gives large blocks back at once, so that nothing else grows meanwhile.
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
"""Other widths, lengths, vocabularies and numbers of rows, and an encoder."""
UNSEEN = ("encoder", "encoder_decoder-words")
"""Models that were not measured yet when the estimate's terms were chosen: the others are no independent check of it."""
ROWS = 8
HOST = Topology.parse("h100:1x1")
"""Any machine of one device: what a step holds follows from the program alone."""


def points(rounds: int) -> Mapping[str, Point]:
    """Return both models with both optimizers, the decoder with every remat policy; and the others."""
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
    """Return bytes by purpose as estimated and as compiled, and the process's peak over `rounds` updates."""
    sizes = {"rows": ROWS, **{**MODELS, **OTHERS}[kind]}
    made = experiment(kind.partition("-")[0], batch_size=sizes.pop("rows"), optimizer=optimizer, remat=remat, **sizes)
    program = Program.of(made, made.mesh.build())
    foreseen = estimate(program, HOST).memory
    batch = device_batch(program)
    step = _compiled(program.step(), program.abstract_state(), program.abstract_batch())
    told = compiled_memory(program, HloModule(step.as_text() or ""), step.memory_analysis())
    create = _compiled(jax.jit(program.create), 0)
    before = settled()
    state = jax.block_until_ready(create(0))
    forget_peak()
    for _ in range(rounds):
        state, _ = jax.block_until_ready(step(state, batch))
    taken = resident("VmHWM") - before + foreseen.batch
    return {
        "entries": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "parameters": len(flatten_specs(program.model.specs)),
        "estimate": {**vars(foreseen), "total": foreseen.total},
        "compiled": {**vars(told), "total": told.total},
        "peak": taken,
    }


def _compiled(function: Any, *arguments: Any) -> Any:
    return function.lower(*arguments).compile()


def settled() -> int:
    """Return the resident bytes once nothing that is free is held."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident("VmRSS")


def forget_peak() -> None:
    """Let the peak of resident memory begin at what is held now (man 5 proc, clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident(what: str) -> int:
    """Return VmRSS, or VmHWM, its peak, in bytes."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None, "Linux tells it"
    return int(found[1]) * 1024


def without_code(memory: Mapping[str, float]) -> float:
    """Return the total less the program's own size, which was there before anything ran."""
    return memory["total"] - memory["code"]


def table(rows: Rows) -> Table:
    """Return a line a program, in MB."""
    made, far, optimizers = [], [], {}
    for name, values in rows.items():
        foreseen, told, peak = values["estimate"], values["compiled"], values["peak"]
        estimated, compiled = without_code(foreseen) / peak, without_code(told) / peak
        held = [f"{foreseen[what] / 1e6:.0f}" for what in ("parameters", "optimizer", "gradients")]
        each = [f"{memory[what] / 1e6:.0f}" for what in ("activations", "temporaries") for memory in (foreseen, told)]
        totals = [f"{without_code(foreseen) / 1e6:.0f}", f"{without_code(told) / 1e6:.0f}", f"{peak / 1e6:.0f}"]
        made.append([name, *held, *each, *totals, f"{estimated:.2f}", f"{compiled:.2f}"])
        if abs(estimated - 1) > WITHIN:
            far.append(name)
        optimizers[name.split(" ")[1]] = [
            f"{foreseen[what] / values['entries']:.2f}" for what in ("parameters", "gradients", "optimizer")
        ]
    header = (
        *("", "parameters", "optimizer", "gradients", "activations est.", "comp.", "temporaries est.", "comp."),
        *("in all est.", "compiled", "taken MB", "est./taken", "comp./taken"),
    )
    notes = [
        f"{name}: bytes a parameter: {own} itself, {gradient} its gradient, {state} the optimizer's state"
        for name, (own, gradient, state) in optimizers.items()
    ]
    notes.append(f"measured after the estimate's terms were chosen, and so an independent check: {', '.join(UNSEEN)}")
    notes.append(f"estimates not within {WITHIN:.0%} of what was taken: {', '.join(far) or 'none'}")
    return Table(header, made, notes)


def draw(figure: Any, rows: Rows) -> None:
    """Draw the three totals side by side."""
    axis = figure.subplots()
    for place, (label, of) in enumerate(
        (
            ("estimated", lambda values: without_code(values["estimate"])),
            ("compiled", lambda values: without_code(values["compiled"])),
            ("taken", lambda values: values["peak"]),
        )
    ):
        places = [at + 0.27 * place for at in range(len(rows))]
        axis.barh(places, [of(values) / 1e6 for values in rows.values()], height=0.25, label=label)
    axis.set_yticks([at + 0.27 for at in range(len(rows))], list(rows), fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("MB")
    axis.legend(frameon=False, fontsize=8)


PART = Part(name="memory", about=__doc__, points=points, measure=measure, table=table, draw=draw, rounds=3)

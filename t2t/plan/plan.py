"""Plans: the memory, FLOPs, communication and time of one step of an experiment on given hardware."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from t2t.errors import UserError
from t2t.optim.paths import flatten_specs
from t2t.plan import flops
from t2t.plan.collectives import Collective, Layout, collectives
from t2t.plan.compile import OutOfMemory, compile_step
from t2t.plan.estimate import estimate
from t2t.plan.memory import Memory, compiled_memory, traffic
from t2t.plan.roofline import Roofline, roofline
from t2t.plan.topology import Topology
from t2t.sharding import assume_platform
from t2t.train.experiment import Experiment, check
from t2t.train.program import Program


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Resources of one step.

    mesh:       size of each mesh axis.
    memory:     bytes per device.
    compiled:   whether `memory` and `sent` come from the compiled program; otherwise they are estimates.
    seconds:    compile time.
    needed:     bytes that the compiler requested when it ran out of memory (at least the temporaries); None if it did not run out.
    flops:      FLOPs of the step, over all devices.
    moved:      bytes to and from the memory of one device.
    sent:       collectives of one device.
    tokens:     positions in a batch, padding included.
    parameters: number of parameters.
    trainable:  number of trainable parameters.
    active:     number of parameters that process one token: all but those of the experts that it does not choose.
    message:    the compiler's message if it ran out of memory; "" otherwise.
    unknown:    loops of the program that counted as one iteration because their iteration count could not be read.
    replicated: see `Compiled`.
    """

    topology: Topology
    mesh: dict[str, int]
    experiment: Experiment
    memory: Memory
    compiled: bool
    seconds: float
    needed: float | None
    flops: flops.Flops
    moved: float
    sent: tuple[Collective, ...]
    roofline: Roofline
    tokens: int
    parameters: int
    trainable: int
    active: int
    message: str = ""
    unknown: int = 0
    replicated: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the step fits into the memory of a chip."""
        return not self.message and self.memory.total <= self.topology.chip.hbm

    @property
    def mfu(self) -> tuple[float, float]:
        """Model FLOPs utilization (Chowdhery et al. 2022), as (no overlap, full overlap) of communication with computation."""
        peak = self.topology.chip.flops * self.topology.size
        return (
            self.flops.model / peak / self.roofline.slowest,
            self.flops.model / peak / self.roofline.fastest,
        )

    @property
    def tokens_per_second(self) -> tuple[float, float]:
        """Tokens per second, as (no overlap, full overlap) of communication with computation."""
        return self.tokens / self.roofline.slowest, self.tokens / self.roofline.fastest

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values, in bytes, seconds and FLOPs."""
        model = self.experiment.model
        settings: dict[str, Any] = {"dtype": model.dtype, "quantization": model.quantization}
        settings |= {name: value for name, value in model.execution.items() if isinstance(value, str)}
        return {
            "topology": str(self.topology),
            "chips": self.topology.size,
            "chip": dataclasses.asdict(self.topology.chip),
            "mesh": self.mesh,
            "settings": {
                **settings,
                "batch_size": self.experiment.data.batch_size,
                "microbatches": self.experiment.microbatches,
            },
            "parameters": self.parameters,
            "trainable_parameters": self.trainable,
            "active_parameters": self.active,
            "compiled": self.compiled,
            "compile_seconds": self.seconds,
            "fits": self.fits,
            "compiler_said": self.message,
            "memory": {**dataclasses.asdict(self.memory), "total": self.memory.total},
            "model_flops": self.flops.model,
            "hardware_flops": self.flops.hardware,
            "bytes_moved": self.moved,
            "collectives": [{**dataclasses.asdict(item), "sent": item.sent} for item in self.sent],
            "seconds": {
                **dataclasses.asdict(self.roofline),
                "fastest": self.roofline.fastest,
                "slowest": self.roofline.slowest,
            },
            "binds": self.roofline.binds,
            "mfu": self.mfu,
            "tokens_per_second": self.tokens_per_second,
            "tokens": self.tokens,
            "replicated": self.replicated,
        }


def prepare(experiment: Experiment, topology: Topology, devices: list[Any] | None = None) -> Program:
    """Return the program of an experiment on a topology.

    devices: devices to compile for (`Topology.devices`). None needs no compiler, but the program can only be estimated.

    If the experiment's mesh has 1 slice, it gets the slices of the topology.

    Raises UserError if the mesh and the topology have different numbers of slices, or if a size does not divide.
    """
    mesh = experiment.mesh
    if topology.is_tpu and topology.slices > 1:
        if mesh.slices not in (1, topology.slices):
            raise UserError(
                f"mesh.slices {mesh.slices} (--mesh.slices): topology {topology} has {topology.slices}. Nearest: {topology.slices}."
            )
        mesh = dataclasses.replace(mesh, slices=topology.slices)
    experiment = dataclasses.replace(experiment, mesh=mesh)
    check(experiment, topology.size if devices is None else len(devices))
    return Program.of(experiment, mesh.abstract(topology.size) if devices is None else mesh.build(devices))


def estimate_plan(program: Program, topology: Topology) -> Plan:
    """Return an estimated plan from shapes, without compiling. Takes a second or two; use it to choose what to compile."""
    with assume_platform("tpu" if topology.is_tpu else "gpu"):
        estimated = estimate(program, topology)
    return _plan(
        program,
        topology,
        memory=estimated.memory,
        operations=estimated.flops,
        moved=estimated.moved,
        sent=estimated.sent,
    )


def plan(program: Program, topology: Topology) -> Plan:
    """Return a plan from the compiled program. Its mesh must have devices (`Topology.devices`).

    If the compiler runs out of memory, the plan is an estimate with the compiler's message.
    """
    with assume_platform("tpu" if topology.is_tpu else "gpu"):
        return _compiled(program, topology)


def _compiled(program: Program, topology: Topology) -> Plan:
    assert isinstance(program.mesh, Mesh)
    compiled = compile_step(program)
    if isinstance(compiled, OutOfMemory):
        estimated = estimate_plan(program, topology)
        memory = estimated.memory
        if compiled.needed is not None and compiled.needed > memory.total:
            # The compiler's number is more accurate than the estimate.
            more = compiled.needed - memory.gradients - memory.activations
            memory = dataclasses.replace(memory, temporaries=max(more, memory.temporaries))
        return dataclasses.replace(
            estimated, memory=memory, needed=compiled.needed, message=compiled.message, seconds=compiled.seconds
        )
    torus = topology.shape if topology.is_tpu else ()
    layout = Layout.of(program.mesh, torus=torus, wraps=topology.chip.wraps, domain=topology.domain)
    result = _plan(
        program,
        topology,
        memory=compiled_memory(program, compiled.hlo, compiled.analysis),
        operations=flops.count(program),
        # Without a GPU the compiler cannot autotune, and it chooses kernels that move much more memory than the tuned ones.
        moved=traffic(compiled.hlo) if topology.is_tpu else estimate(program, topology).moved,
        sent=tuple(collectives(compiled.hlo, layout)),
    )
    return dataclasses.replace(
        result, compiled=True, seconds=compiled.seconds, unknown=compiled.hlo.unknown, replicated=compiled.replicated
    )


def _plan(
    program: Program,
    topology: Topology,
    *,
    memory: Memory,
    operations: flops.Flops,
    moved: float,
    sent: tuple[Collective, ...],
) -> Plan:
    batch = flops.plain(program.abstract_batch())
    trainable, parameters = program.counts()
    rows = [tokens.ids.shape for tokens in (batch.encoder, batch.decoder) if tokens is not None]
    return Plan(
        topology=topology,
        mesh=dict(program.mesh.shape),
        experiment=program.experiment,
        memory=memory,
        compiled=False,
        seconds=0.0,
        needed=None,
        flops=operations,
        moved=moved,
        sent=sent,
        roofline=roofline(topology.chip, topology.size, operations.hardware, moved, sent),
        tokens=sum(count * length for count, length in rows),
        parameters=parameters,
        trainable=trainable,
        active=round(sum(spec.used * spec.size for spec in flatten_specs(program.specs).values())),
    )

"""A plan: what one step of an experiment needs on a machine, and what it would take."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from t2t.errors import UserError
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
    """What a step needs.

    mesh:     sizes of its axes.
    memory:   a device's bytes.
    compiled: whether memory and what is sent are the compiled program's; otherwise they are estimates.
    seconds:  compiling took.
    needed:   bytes the compiler asked for when it gave up, which is at least for the temporaries; None where it did not.
    flops:    of the whole step, over all devices.
    moved:    bytes to and from a device's memory.
    sent:     what a device sends.
    tokens:   positions in a batch, padding included.
    parameters, trainable: how many numbers the parameters, and the trainable ones of them, have.
    replicated: see `Compiled`.
    unknown:  loops of the program that were counted as one round because their number could not be read.
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
    message: str = ""
    unknown: int = 0
    replicated: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether a chip has the memory."""
        return not self.message and self.memory.total <= self.topology.chip.hbm

    @property
    def mfu(self) -> tuple[float, float]:
        """Model FLOPs utilisation (Chowdhery et al. 2022), where nothing and where all of what is sent hides behind computing."""
        peak = self.topology.chip.flops * self.topology.size
        return (
            self.flops.model / peak / self.roofline.slowest,
            self.flops.model / peak / self.roofline.fastest,
        )

    @property
    def tokens_per_second(self) -> tuple[float, float]:
        """As `mfu`."""
        return self.tokens / self.roofline.slowest, self.tokens / self.roofline.fastest

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values: bytes, seconds and operations in their plain units."""
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
    """Return the program of an experiment on devices that are not there.

    devices: to compile for (`Topology.devices`); None, without a compiler, for a program that can be estimated alone.

    The mesh's slices are the topology's where the experiment leaves them at 1. Raises UserError where the two contradict, or anything does not divide.
    """
    mesh = experiment.mesh
    if topology.is_tpu and topology.slices > 1:
        if mesh.slices not in (1, topology.slices):
            raise UserError(
                f"mesh.slices {mesh.slices} (--mesh.slices), and topology {topology} has {topology.slices}. Nearest: {topology.slices}."
            )
        mesh = dataclasses.replace(mesh, slices=topology.slices)
    experiment = dataclasses.replace(experiment, mesh=mesh)
    check(experiment, topology.size if devices is None else len(devices))
    return Program.of(experiment, mesh.abstract(topology.size) if devices is None else mesh.build(devices))


def estimate_plan(program: Program, topology: Topology) -> Plan:
    """Return a plan from shapes alone, in a second or two: to choose what is worth compiling."""
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
    """Return a plan from the compiled program; its mesh has devices, those of `Topology.devices`. Where the compiler runs out of memory, the rest is as estimated."""
    with assume_platform("tpu" if topology.is_tpu else "gpu"):
        return _compiled(program, topology)


def _compiled(program: Program, topology: Topology) -> Plan:
    assert isinstance(program.mesh, Mesh)
    compiled = compile_step(program)
    if isinstance(compiled, OutOfMemory):
        estimated = estimate_plan(program, topology)
        memory = estimated.memory
        if compiled.needed is not None and compiled.needed > memory.total:
            # The compiler knows better.
            more = compiled.needed - memory.gradients - memory.activations
            memory = dataclasses.replace(memory, temporaries=max(more, memory.temporaries))
        return dataclasses.replace(
            estimated, memory=memory, needed=compiled.needed, message=compiled.message, seconds=compiled.seconds
        )
    torus = topology.shape if topology.is_tpu else ()
    layout = Layout.of(program.mesh, torus=torus, wraps=topology.chip.wraps, domain=topology.domain)
    made = _plan(
        program,
        topology,
        memory=compiled_memory(program, compiled.hlo, compiled.analysis),
        operations=flops.count(program),
        # Without a GPU the compiler cannot try which kernels are fast, and takes some that move much more than those it would find.
        moved=traffic(compiled.hlo) if topology.is_tpu else estimate(program, topology).moved,
        sent=tuple(collectives(compiled.hlo, layout)),
    )
    return dataclasses.replace(
        made, compiled=True, seconds=compiled.seconds, unknown=compiled.hlo.unknown, replicated=compiled.replicated
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
    )

"""Print plans as tables."""

from __future__ import annotations

from collections.abc import Sequence

from t2t.api.progress import large, share
from t2t.launch.output import console, table
from t2t.plan.plan import Plan
from t2t.plan.roofline import LINKS, MATMUL, MEMORY, seconds
from t2t.plan.search import describe
from t2t.train.experiment import Experiment

SHOWN = 12
"""Maximum rows of the ranking and of the table of collectives."""

BOUND = {
    "compute": "matrix products",
    "memory": "the chip's memory",
    "inside": "links within a {domain}",
    "between": "the network between {domain}s",
}


def show_plan(plan: Plan, recipe: str) -> None:
    """Print a plan: settings, memory, collectives and time."""
    out = console()
    topology, chip, experiment = plan.topology, plan.topology.chip, plan.experiment
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items() if size > 1) or "one device"
    out.print(f"{recipe} on {topology}: {topology.size:,} x {chip.name}", style="bold")
    model = experiment.model
    settings = [f"dtype {model.dtype}"]
    settings += [f"quantization {model.quantization}"] if model.quantization != "none" else []
    settings += [f"{name} {model.execution[name]}" for name in ("remat", "attention") if name in model.execution]
    settings += [f"batch {experiment.data.batch_size:,}", f"microbatches {experiment.microbatches}"]
    slices = f" ({topology.slices} slices)" if topology.slices > 1 else ""
    out.print(f"mesh {mesh}{slices}; {', '.join(settings)}")
    if plan.trainable < plan.parameters:
        out.print(
            f"{large(plan.trainable)} of {large(plan.parameters)} parameters are trainable; the others are frozen"
        )
    if plan.active < plan.parameters:
        out.print(f"{large(plan.active)} of {large(plan.parameters)} parameters process each token")
    how = f"compiled in {plan.seconds:.0f} s" if plan.compiled else "an estimate, not compiled"
    out.print(f"{how}; the settings are the recipe's, except those set by options")

    memory = plan.memory
    out.print()
    rows = table(out, "memory a chip", "GiB", "share", right=("GiB", "share"))
    parts = ("parameters", "ema", "teacher", "optimizer", "batch", "gradients", "activations", "temporaries", "code")
    for name in (part for part in parts if part not in ("ema", "teacher") or getattr(memory, part)):
        size = getattr(memory, name)
        rows.add_row(name, _gib(size), share(size / chip.hbm))
    rows.add_row("total", _gib(memory.total), share(memory.total / chip.hbm), style="bold")
    rows.add_row("available", _gib(chip.hbm), "")
    out.print(rows)
    if memory.host:
        out.print(f"and {_gib(memory.host)} GiB of optimizer state for each chip in the memory of its host")
    if plan.message:
        out.print(f"does not fit. The compiler reports: {plan.message}", style="bold red")
        out.print("The numbers above and below are estimates.")
    elif not plan.fits:
        out.print("does not fit", style="bold red")
    _show_sent(plan)
    _show_time(plan)


def _show_sent(plan: Plan) -> None:
    out, chip = console(), plan.topology.chip
    if not plan.sent:
        return
    out.print()
    right = ("chips", "a step", "sent a chip", "time")
    rows = table(out, "collective", "along", *right, "over", right=right)
    shown = plan.sent[:SHOWN]
    for item in shown:
        near, far = seconds(chip, item)
        over = f"between {chip.domain}s" if item.domains > 1 else f"within a {chip.domain}"
        rows.add_row(
            item.kind,
            ", ".join(item.axes),
            f"{item.group:,}",
            f"{item.times:,.0f}",
            _bytes(item.sent),
            _seconds(near + far),
            over,
        )
    out.print(rows)
    rest = plan.sent[SHOWN:]
    if rest:
        out.print(f"and {len(rest)} more kinds, {_bytes(sum(item.sent for item in rest))} in total", style="dim")


def _show_time(plan: Plan) -> None:
    out, chip, roof = console(), plan.topology.chip, plan.roofline
    out.print()
    again = plan.flops.total / plan.flops.model - 1 if plan.flops.model else 0.0
    out.print(
        f"{large(plan.flops.model)} model FLOPs a step, {large(plan.flops.total)} computed"
        + (f" ({again:.0%} recomputed by remat)" if again > 0.005 else "")
        + f"; {_bytes(plan.moved)} to and from memory per chip"
    )
    rows = table(out, "busy", "a step", "", right=("a step",))
    for name in ("compute", "memory", "inside", "between"):
        if value := getattr(roof, name):
            label = BOUND[name].format(domain=chip.domain)
            rows.add_row(label, _seconds(value), "binds" if name == roof.binds else "")
    out.print(rows)
    low, high = plan.mfu
    slow, fast = plan.tokens_per_second
    out.print(
        f"step {_seconds(roof.fastest)} to {_seconds(roof.slowest)}, MFU {share(low)} to {share(high)},"
        f" {large(slow)} to {large(fast)} tokens/s",
        style="bold",
    )
    out.print(
        f"An estimate: {MATMUL:.0%} of peak for matrix products, {MEMORY:.0%} for memory, {LINKS:.0%} for links, no latencies. The range goes from"
        " full to no overlap of communication and computation. Tokens include padding.",
        style="dim",
    )
    if plan.replicated:
        out.print(
            f"The compiler replicates these arrays because it finds no better way to change their layout: {', '.join(plan.replicated)}",
            style="yellow",
        )
    if plan.unknown:
        out.print(f"{plan.unknown} loops of unknown length are counted as one iteration", style="dim")


def show_fixes(found: Sequence[tuple[str, Plan]]) -> None:
    """Print the options that would make a plan fit."""
    out = console()
    out.print()
    if not found:
        out.print(
            "No tried option makes it fit (mesh, remat, chunked attention, microbatches). Use more or larger chips, or a smaller batch."
        )
        return
    out.print("options that fit, as estimated:", style="bold")
    rows = table(out, "options", "GiB a chip", "step", right=("GiB a chip",))
    for options, plan in found:
        rows.add_row(
            options,
            _gib(plan.memory.total),
            f"{_seconds(plan.roofline.fastest)} to {_seconds(plan.roofline.slowest)}",
        )
    out.print(rows)


def show_ranking(plans: Sequence[Plan], experiment: Experiment) -> None:
    """Print the plans of a search, the best first."""
    out = console()
    out.print()
    if not plans:
        out.print(
            "no tried configuration fits: use more or larger chips, a smaller batch, or --model.attention chunked",
            style="bold red",
        )
        return
    out.print(f"{len(plans)} configurations, the fastest first (by the step time without overlap)", style="bold")
    right = ("GiB a chip", "MFU")
    rows = table(out, "options", "GiB a chip", "step", "MFU", "", right=right)
    for plan in plans[:SHOWN]:
        low, high = plan.mfu
        note = "compiled" if plan.compiled else "does not fit" if not plan.fits else "estimate"
        if plan.compiled and not plan.fits:
            note = "compiled, does not fit"
        rows.add_row(
            describe(plan.experiment, plan.mesh),
            _gib(plan.memory.total),
            f"{_seconds(plan.roofline.fastest)} to {_seconds(plan.roofline.slowest)}",
            f"{share(low)} to {share(high)}",
            note,
        )
    out.print(rows)


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f}"


def _bytes(size: float) -> str:
    for unit, letter in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:,.1f} {letter}"
    return f"{size / 1e3:,.1f} kB"


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.2g} s" if value < 10 else f"{value:,.0f} s"
    return f"{value * 1e3:.2g} ms" if value < 0.1 else f"{value * 1e3:,.0f} ms"

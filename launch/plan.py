"""`t2t plan RECIPE --topology v5e:16x16 [--option value ...]`: predict memory and speed on hardware that you do not have."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from t2t.errors import UserError
from t2t.launch.main import DONE
from t2t.limits import Configuration, Range
from t2t.paths import LocalPath, check_output
from t2t.plan.topology import ENVIRONMENT, EXAMPLES, Topology

ABOUT = f"""Compile a recipe's train step for hardware that you do not have, and print the memory and time that it needs.

--topology NAME (required): {EXAMPLES}.
--slices N: number of slices, connected by the data-centre network.
--search: also try meshes, remat policies and microbatches, rank those that fit, and compile the best.
--compile N: how many of the best to compile (default 3; 0 compiles nothing and prints estimates only).
--json FILE: also write all numbers to this file.
--vocabulary FILE and all other options are those of t2t train RECIPE."""

OWN = ("--topology", "--slices", "--search", "--compile", "--json", "--vocabulary")
"""Options of the command itself, in addition to the options of the recipe."""


@dataclass(frozen=True, kw_only=True)
class Words(Configuration):
    """The recipe's name and the values of the command's own options."""

    recipe: str
    topology: Topology
    search: bool
    compile: Annotated[int, Range(0, 1000)]
    json: LocalPath | None
    vocabulary: LocalPath | None


def command(arguments: Sequence[str], imports: tuple[str, ...]) -> int:
    """Plan a recipe on a topology. The exit code is 0 if it fits and 1 if it does not."""
    options, rest = _parse(arguments)
    os.environ.update(
        {name: value for name, value in ENVIRONMENT.items() if name not in os.environ or name == "JAX_PLATFORMS"}
    )
    from t2t.launch import parse
    from t2t.launch.experiment import experiment_of, recipe_of

    if options.recipe is None and {"-h", "--help"} & set(rest):
        print(f"usage: t2t plan RECIPE --topology NAME [--option value ...]\n\n{ABOUT}")
        return DONE
    if options.recipe is None or options.recipe.startswith("-"):
        raise UserError(
            "t2t plan: RECIPE is missing: t2t recipes lists them. Example: t2t plan t5:1.0-11b --topology v5e:16x16"
        )
    prog = f"t2t plan {options.recipe}"
    recipe = recipe_of(options.recipe, assume=True)
    experiment = experiment_of(recipe(), rest, prog=prog, about=ABOUT, own=OWN, vocabulary=options.vocabulary)
    if options.topology is None:
        raise UserError(f"{prog}: --topology NAME is missing: it names the hardware: {EXAMPLES}")
    with parse.options():
        words = Words(
            recipe=options.recipe,
            topology=Topology.parse(options.topology, options.slices),
            search=options.search,
            compile=options.compile,
            json=options.json,
            vocabulary=options.vocabulary,
        )
    if words.json is not None:
        check_output(words.json, "--json")
    return _plan(words, experiment)


def _parse(arguments: Sequence[str]) -> tuple[Any, list[str]]:
    parser = argparse.ArgumentParser(prog="t2t plan", add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--topology")
    parser.add_argument("--slices", type=int)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--compile", type=int, default=3)
    parser.add_argument("--json")
    parser.add_argument("--vocabulary")
    try:
        return parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(f"t2t plan: {error}") from None


def _plan(words: Words, experiment: Any) -> int:
    from t2t.launch.show_plan import show_fixes, show_plan, show_ranking
    from t2t.plan.plan import estimate_plan, plan, prepare
    from t2t.plan.search import search, suggest_fixes

    topology = words.topology
    topology.check()
    devices = topology.devices() if words.compile else None  # an estimate needs no compiler
    program = None
    try:
        program = prepare(experiment, topology, devices)
    except UserError:
        if not words.search:
            raise
    chosen = None
    if program is not None:
        if words.compile:
            print(f"compiling for {topology} ({topology.size} chips) ...", file=sys.stderr)
        chosen = plan(program, topology) if words.compile else estimate_plan(program, topology)
        show_plan(chosen, words.recipe)
        if not chosen.fits and not words.search:
            show_fixes(suggest_fixes(chosen.experiment, topology, devices))
    ranked: list[Any] = []
    if words.search:
        print("searching ...", file=sys.stderr)
        found = search(experiment, topology, devices)
        best = []
        for candidate in found[: words.compile]:
            print(f"compiling {candidate.mesh} ...", file=sys.stderr)
            best.append(plan(prepare(candidate.experiment, topology, devices), topology))
        best.sort(key=lambda it: (not it.fits, it.roofline.slowest))
        ranked = [*best, *found[words.compile :]]
        show_ranking(ranked, experiment)
    if words.json:
        values = {
            "recipe": words.recipe,
            "plan": chosen and chosen.to_json(),
            "search": [it.to_json() for it in ranked],
        }
        Path(words.json).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return DONE if (chosen is not None and chosen.fits) or any(it.fits for it in ranked) else 1

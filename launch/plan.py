"""`t2t plan RECIPE --topology v5e:16x16 [--option value ...]`: training on hardware that is not there."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from t2t.errors import UserError
from t2t.launch.main import DONE
from t2t.limits import Configuration, Range
from t2t.paths import LocalPath, check_output
from t2t.plan.topology import ENVIRONMENT, EXAMPLES, Topology

ABOUT = f"""Compile a recipe's train step for a machine that is not there, and say what it needs.

--topology NAME (required): {EXAMPLES}.
--slices N: how many of them, with the data-centre network between.
--search: also try meshes, remat policies and microbatches, rank those that fit, and compile the best.
--compile N: how many of them (3; 0 compiles nothing and gives estimates alone).
--json FILE: write all numbers there too.
All other options are those of t2t train RECIPE."""

OWN = ("--topology", "--slices", "--search", "--compile", "--json", "--vocabulary")
"""Options that the command has besides the recipe's."""


@dataclass(frozen=True, kw_only=True)
class Words(Configuration):
    """What the command has besides the recipe's own options."""

    recipe: str
    topology: Topology
    search: bool
    compile: Annotated[int, Range(0, 1000)]
    json: LocalPath | None
    vocabulary: LocalPath | None


def command(arguments: Sequence[str], imports: tuple[str, ...]) -> int:
    """Plan a recipe on a topology. Exits with 0 where it fits and 1 where it does not."""
    given, rest = _words(arguments)
    os.environ.update(
        {name: value for name, value in ENVIRONMENT.items() if name not in os.environ or name == "JAX_PLATFORMS"}
    )
    from t2t.api.recipes import find, is_own
    from t2t.launch import parse
    from t2t.launch.train import SHORT

    if given.recipe is None and {"-h", "--help"} & set(rest):
        print(f"usage: t2t plan RECIPE --topology NAME [--option value ...]\n\n{ABOUT}")
        return DONE
    if given.recipe is None or given.recipe.startswith("-"):
        raise UserError("t2t plan: which recipe? t2t recipes lists them: t2t plan t5:1.0-11b --topology v5e:16x16")
    if is_own(given.recipe):
        from t2t.api.quiet import import_tensorflow

        import_tensorflow()  # a recipe of the user's own is likely to register tasks
    prog = f"t2t plan {given.recipe}"
    recipe = find(given.recipe)
    experiment = parse.override(recipe(), rest, prog=prog, description=ABOUT, short=SHORT, also=OWN)
    if given.topology is None:
        raise UserError(f"{prog}: on what? --topology names it: {EXAMPLES}")
    if given.vocabulary is not None:
        from t2t.api.vocabulary_file import vocabulary_of

        experiment = replace(experiment, data=replace(experiment.data, vocabulary=vocabulary_of(given.vocabulary)))
    with parse.options():
        words = Words(
            recipe=given.recipe,
            topology=Topology.parse(given.topology, given.slices),
            search=given.search,
            compile=given.compile,
            json=given.json,
            vocabulary=given.vocabulary,
        )
    if words.json is not None:
        check_output(words.json, "--json")
    return _plan(words, experiment)


def _words(arguments: Sequence[str]) -> tuple[Any, list[str]]:
    words = argparse.ArgumentParser(prog="t2t plan", add_help=False, allow_abbrev=False, exit_on_error=False)
    words.add_argument("recipe", nargs="?")
    words.add_argument("--topology")
    words.add_argument("--slices", type=int)
    words.add_argument("--search", action="store_true")
    words.add_argument("--compile", type=int, default=3)
    words.add_argument("--json")
    words.add_argument("--vocabulary")
    try:
        return words.parse_known_args(list(arguments))
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
    own = None
    if program is not None:
        if words.compile:
            print(f"compiling for {topology} ({topology.size} chips) ...", file=sys.stderr)
        own = plan(program, topology) if words.compile else estimate_plan(program, topology)
        show_plan(own, words.recipe)
        if not own.fits and not words.search:
            show_fixes(suggest_fixes(own.experiment, topology, devices))
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
        values = {"recipe": words.recipe, "plan": own and own.to_json(), "search": [it.to_json() for it in ranked]}
        Path(words.json).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return DONE if (own is not None and own.fits) or any(it.fits for it in ranked) else 1

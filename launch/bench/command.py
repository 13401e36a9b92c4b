"""`t2t bench [PART ...] RECIPE [--option value ...]`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2t.errors import UserError, nearest
from t2t.launch import parse
from t2t.launch.bench import ceilings, checkpoint, compile, data, decode, start, step
from t2t.launch.bench.ceilings import Ceilings
from t2t.launch.bench.measurement import Measurement
from t2t.launch.bench.results import Results, read
from t2t.launch.bench.show import draw, show, show_ratios
from t2t.launch.bench.timing import Limits
from t2t.launch.bench.workload import Workload
from t2t.launch.codes import DONE
from t2t.launch.experiment import experiment_of, recipe_of
from t2t.paths import check, check_output
from t2t.train.experiment import Experiment
from t2t.train.experiment import check as check_experiment

PARTS: dict[str, Callable[[Workload], Iterator[Measurement]]] = {
    step.PART: step.measure,
    decode.PART: decode.measure,
    data.PART: data.measure,
    start.PART: start.measure,
    checkpoint.PART: checkpoint.measure,
    compile.PART: compile.measure,
}
NAMES = (ceilings.PART, *PARTS)
NEED_CEILINGS = {ceilings.PART, step.PART, decode.PART}
"""Parts that need the machine's ceilings."""

ABOUT = """Measure a recipe on this machine and compare it with the limits of the machine.

Parts (default: all; parts that cannot be measured here are skipped with a message):
  ceilings    matrix products and memory copies, on one device and on all; measured first if another part needs them
  step        the training step: seconds, tokens/s, FLOP/s, memory, overhead of Python
  decode      greedy, sampling, beam 4 (encoders: fill-mask), bytes of the cache, programs compiled for similar lengths
  data        the recipe's own task: tokens/s of the pipeline, share of positions that are not padding, time that training waits for data
  start       t2t train until its first step and t2t infer until its first token, without and with a compilation cache
  checkpoint  saving and restoring, compared with a plain file
  compile     tracing, lowering and compiling the step, without a cache

--out FILE.json: write every sample to this file, during the measurement.
--plot FILE.png: draw the shares of the ceilings.
--repeats N (20), --seconds S (5): measure a quantity until there are N samples or S seconds are over; at least 3 samples unless N is smaller.
--batches synthetic|task (synthetic): batches of the part step: full rows of random tokens, the same on every machine, or the recipe's task.
--rows N,N,... (1,8,64): requests to decode at a time. --prompt N, --generate N: tokens of a request and of its answer (default: the recipe's
  inputs; the recipe's targets, at most 64).
--scratch DIR: directory for temporary checkpoints and runs. Default: the system's temporary directory.
--vocabulary FILE: as in t2t train.
All other options are those of t2t train RECIPE. They follow the recipe's name."""
USAGE = """usage: t2t bench [PART ...] RECIPE [--out FILE.json] [--plot FILE.png] [--repeats N] [--seconds S] [--option value ...]
       t2t bench --compare FIRST.json SECOND.json"""

OWN = (
    "--out",
    "--plot",
    "--repeats",
    "--seconds",
    "--batches",
    "--rows",
    "--prompt",
    "--generate",
    "--scratch",
    "--vocabulary",
)
"""Options of the command itself, in addition to the options of the recipe."""


def command(arguments: Sequence[str], imports: tuple[str, ...]) -> int:
    """Measure parts of a recipe, or compare two files of results."""
    named, options, rest = _parse(arguments)
    if options.compare is not None:
        if named or rest:
            raise UserError(f"t2t bench --compare takes only two files, not also {' '.join([*named, *rest])!r}")
        first, second = (read(check(name, "--compare")) for name in options.compare)
        show_ratios(first, second, options.compare)
        return DONE
    helped = bool({"-h", "--help"} & set(rest))
    if not named and helped:
        print(f"{USAGE}\n\n{ABOUT}")
        return DONE
    if not named:
        raise UserError(
            "t2t bench: RECIPE is missing. Parts and recipe come first. Example: t2t bench step t5:quickstart --seconds 2"
        )
    *parts, recipe = named
    for part in parts:
        if part not in NAMES and ":" in part:
            raise UserError(
                f"t2t bench {' '.join(named)}: parts come before the recipe, options after it. Example: t2t bench step {part}"
            )
        if part not in NAMES:
            raise UserError(f"t2t bench: unknown part {part!r}.{nearest(part, NAMES)}")
    if recipe in NAMES:
        raise UserError(
            f"t2t bench {' '.join(named)}: RECIPE is missing: t2t recipes lists them. Example: t2t bench {recipe} t5:quickstart"
        )
    experiment = _experiment(recipe, rest, options.vocabulary)
    with parse.options():
        work = Workload(
            recipe=recipe,
            experiment=experiment,
            limits=Limits(repeats=options.repeats, seconds=options.seconds),
            options=(*(["--vocabulary", options.vocabulary] if options.vocabulary else []), *rest, *_imported(imports)),
            source=options.batches,
            rows=_rows(options.rows),
            prompt=options.prompt,
            generate=options.generate,
            scratch=options.scratch,
            log=_log,
        )
    _check(work, parts, options)
    return _measure(work, parts, options, rest)


def _parse(arguments: Sequence[str]) -> tuple[list[str], Any, list[str]]:
    """Return the arguments before the first option, the benchmark's own options, and the rest."""
    count = next((place for place, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    parser = argparse.ArgumentParser(prog="t2t bench", add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out")
    parser.add_argument("--plot")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batches", choices=("synthetic", "task"), default="synthetic")
    parser.add_argument("--rows", default="1,8,64")
    parser.add_argument("--prompt", type=int)
    parser.add_argument("--generate", type=int)
    parser.add_argument("--scratch")
    parser.add_argument("--vocabulary")
    parser.add_argument("--compare", nargs=2, metavar=("FIRST", "SECOND"))
    try:
        options, rest = parser.parse_known_args(list(arguments[count:]))
    except argparse.ArgumentError as error:
        raise UserError(f"t2t bench: {error}") from None
    return list(arguments[:count]), options, rest


def _experiment(recipe: str, rest: Sequence[str], vocabulary: str | None) -> Experiment:
    found = recipe_of(recipe, assume=True)
    about = f"{(found.__doc__ or '').strip()}\n\n{ABOUT}"
    return experiment_of(found(), rest, prog=f"t2t bench {recipe}", about=about, own=OWN, vocabulary=vocabulary)


def _imported(imports: tuple[str, ...]) -> list[str]:
    return [word for name in imports for word in ("--import", name)]


def _rows(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--rows {text}: expected numbers separated by commas. Nearest: 1,8,64.") from None


def _check(work: Workload, parts: Sequence[str], options: Any) -> None:
    """Check the options before anything is measured. Raises UserError."""
    import jax

    for option, path in (("--out", options.out), ("--plot", options.plot)):
        if path is not None:
            check_output(path, option)
    if work.scratch is not None and not (Path(work.scratch).is_dir() and os.access(work.scratch, os.W_OK)):
        raise UserError(f"{work.scratch} (--scratch) is not a writable directory.")
    check_experiment(work.experiment, jax.device_count())
    if decode.PART in parts:
        decode.check(work)


def _measure(work: Workload, parts: Sequence[str], options: Any, rest: Sequence[str]) -> int:
    wanted = list(dict.fromkeys(parts)) or list(NAMES)
    more = {"batches": work.source, "rows": list(work.rows), "parts": wanted}
    results = Results.begin(work.recipe, rest, work.experiment, work.limits, **more)

    def keep(found: Results) -> None:
        nonlocal results
        results = found
        if options.out is not None:
            results.write(Path(options.out))

    work = replace(work, note=lambda text: keep(results.noted(text)))
    try:
        if NEED_CEILINGS & set(wanted):
            _log("ceilings: matrix products, copies")
            # Several sizes are tried for each rate.
            for measurement in ceilings.rates(
                limits=work.limits.divided(3), sizes=ceilings.SIZES, copied=ceilings.COPIED
            ):
                keep(results.added(measurement))
            work = replace(work, ceilings=Ceilings.of(results.of(ceilings.PART)))
        for name in (name for name in PARTS if name in wanted):
            try:
                for measurement in PARTS[name](work):
                    keep(results.added(measurement))
            except UserError as error:
                if name in parts:
                    raise
                _log(f"{name}: skipped: {error}")
                keep(results.noted(f"{name}: skipped: {' '.join(str(error).split())}"))
    finally:  # after an interruption or an error, show the results so far
        if results.measurements:
            show(results)
        if options.plot is not None and results.measurements:
            draw(results, Path(options.plot))
    return DONE


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

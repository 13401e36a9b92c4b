"""`t2t bench [PART ...] RECIPE [--option value ...]`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2t.api.recipes import find, is_own
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
from t2t.launch.train import SHORT
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
BESIDE = {ceilings.PART, step.PART, decode.PART}
"""Parts that want the machine's ceilings measured."""

ABOUT = """Measure a recipe on this machine, beside what the machine can do.

Parts (none named: all of them, leaving out with a line what cannot be measured here):
  ceilings    matrix products and copies of memory, of one device and of all; measured first wherever another part needs them
  step        the step of training: seconds, tokens/s, FLOP/s, memory, what Python adds
  decode      greedy, sampling, beam 4 (encoders: fill-mask), bytes of the cache, programs compiled for near lengths
  data        the recipe's own task: tokens/s of the pipeline, places filled, how long training waits for it
  start       t2t train to its first step and t2t infer to its first token, with nothing and with all compiled before
  checkpoint  saving and restoring, beside a plain file
  compile     tracing, lowering and compiling the step, with no cache

--out FILE.json: keep every sample there; written as it goes.
--plot FILE.png: draw the shares of the ceilings.
--repeats N (20), --seconds S (5): a quantity is measured until there are N samples or S seconds are over; at least 3 samples where N allows.
--batches synthetic|task (synthetic): full rows of random tokens, the same everywhere and without reading anything; or the recipe's task, for step.
--rows N,N,... (1,8,64): requests decoded at a time. --prompt N, --generate N: their tokens (the recipe's inputs; its targets, 64 at most).
--scratch DIR: where checkpoints and runs are written meanwhile; the system's directory for such things if not given.
--vocabulary FILE: as with t2t train.
All other options are those of t2t train RECIPE, behind the recipe's name."""
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
"""Options that the command has besides the recipe's."""


def command(arguments: Sequence[str], imports: tuple[str, ...]) -> int:
    """Measure a recipe's parts; or compare two files of results."""
    named, given, rest = _words(arguments)
    if given.compare is not None:
        if named or rest:
            raise UserError(f"t2t bench --compare takes two files alone, not also {' '.join([*named, *rest])!r}")
        first, second = (read(check(name, "--compare")) for name in given.compare)
        show_ratios(first, second, given.compare)
        return DONE
    helped = bool({"-h", "--help"} & set(rest))
    if not named and helped:
        print(f"{USAGE}\n\n{ABOUT}")
        return DONE
    if not named:
        raise UserError(
            "t2t bench: which recipe? Parts and recipe stand first: t2t bench step t5:quickstart --seconds 2"
        )
    *parts, recipe = named
    for part in parts:
        if part not in NAMES and ":" in part:
            raise UserError(
                f"t2t bench {' '.join(named)}: parts come before the recipe, options behind it: t2t bench step {part}"
            )
        if part not in NAMES:
            raise UserError(f"t2t bench: unknown part {part!r}.{nearest(part, NAMES)}")
    if recipe in NAMES:
        raise UserError(
            f"t2t bench {' '.join(named)}: which recipe? t2t recipes lists them: t2t bench {recipe} t5:quickstart"
        )
    experiment = _experiment(recipe, rest, given.vocabulary)
    with parse.options():
        work = Workload(
            recipe=recipe,
            experiment=experiment,
            limits=Limits(repeats=given.repeats, seconds=given.seconds),
            options=(*(["--vocabulary", given.vocabulary] if given.vocabulary else []), *rest, *_imported(imports)),
            source=given.batches,
            rows=_rows(given.rows),
            prompt=given.prompt,
            generate=given.generate,
            scratch=given.scratch,
            say=_say,
        )
    _check(work, parts, given)
    return _measure(work, parts, given, rest)


def _words(arguments: Sequence[str]) -> tuple[list[str], Any, list[str]]:
    """Return the words before the first option, the benchmark's own options, and the rest."""
    count = next((place for place, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    words = argparse.ArgumentParser(prog="t2t bench", add_help=False, allow_abbrev=False, exit_on_error=False)
    words.add_argument("--out")
    words.add_argument("--plot")
    words.add_argument("--repeats", type=int, default=20)
    words.add_argument("--seconds", type=float, default=5.0)
    words.add_argument("--batches", choices=("synthetic", "task"), default="synthetic")
    words.add_argument("--rows", default="1,8,64")
    words.add_argument("--prompt", type=int)
    words.add_argument("--generate", type=int)
    words.add_argument("--scratch")
    words.add_argument("--vocabulary")
    words.add_argument("--compare", nargs=2, metavar=("FIRST", "SECOND"))
    try:
        given, rest = words.parse_known_args(list(arguments[count:]))
    except argparse.ArgumentError as error:
        raise UserError(f"t2t bench: {error}") from None
    return list(arguments[:count]), given, rest


def _experiment(recipe: str, rest: Sequence[str], vocabulary: str | None) -> Experiment:
    if is_own(recipe):
        from t2t.api.quiet import import_tensorflow

        import_tensorflow()  # a recipe of the user's own is likely to register tasks
    found = find(recipe)
    about = f"{(found.__doc__ or '').strip()}\n\n{ABOUT}"
    experiment = parse.override(found(), rest, prog=f"t2t bench {recipe}", description=about, short=SHORT, also=OWN)
    if vocabulary is not None:
        from t2t.api.vocabulary_file import vocabulary_of

        experiment = replace(experiment, data=replace(experiment.data, vocabulary=vocabulary_of(vocabulary)))
    return experiment


def _imported(imports: tuple[str, ...]) -> list[str]:
    return [word for name in imports for word in ("--import", name)]


def _rows(text: str) -> tuple[int, ...]:
    try:
        rows = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--rows {text}: numbers with commas between. Nearest: 1,8,64.") from None
    return rows


def _check(work: Workload, parts: Sequence[str], given: Any) -> None:
    """Refuse what cannot work before anything is measured. Raises UserError."""
    import jax

    for option, path in (("--out", given.out), ("--plot", given.plot)):
        if path is not None:
            check_output(path, option)
    if work.scratch is not None and not (Path(work.scratch).is_dir() and os.access(work.scratch, os.W_OK)):
        raise UserError(f"{work.scratch} (--scratch) is no directory that can be written to.")
    check_experiment(work.experiment, jax.device_count())
    if decode.PART in parts:
        decode.check(work)


def _measure(work: Workload, parts: Sequence[str], given: Any, rest: Sequence[str]) -> int:
    wanted = list(dict.fromkeys(parts)) or list(NAMES)
    more = {"batches": work.source, "rows": list(work.rows), "parts": wanted}
    results = Results.begin(work.recipe, rest, work.experiment, work.limits, **more)

    def keep(found: Results) -> None:
        nonlocal results
        results = found
        if given.out is not None:
            results.write(Path(given.out))

    work = replace(work, note=lambda text: keep(results.noted(text)))
    try:
        if BESIDE & set(wanted):
            _say("ceilings: matrix products, copies")
            # Several sizes are tried for each.
            for made in ceilings.rates(limits=work.limits.divided(3), sizes=ceilings.SIZES, copied=ceilings.COPIED):
                keep(results.added(made))
            work = replace(work, ceilings=Ceilings.of(results.of(ceilings.PART)))
        for name in (name for name in PARTS if name in wanted):
            try:
                for made in PARTS[name](work):
                    keep(results.added(made))
            except UserError as error:
                if name in parts:
                    raise
                _say(f"{name}: left out: {error}")
                keep(results.noted(f"{name}: left out: {' '.join(str(error).split())}"))
    finally:  # interrupted or refused: what was measured is shown all the same
        if results.measurements:
            show(results)
        if given.plot is not None and results.measurements:
            draw(results, Path(given.plot))
    return DONE


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

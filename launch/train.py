"""`t2t train RECIPE --dir RUN [--option value ...]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from t2t.api import report
from t2t.api.assembly import run_training
from t2t.api.earlier_recipes import as_begun
from t2t.api.progress import Progress
from t2t.api.user_code import run_code
from t2t.errors import UserError
from t2t.launch import parse
from t2t.launch.codes import DONE, STOPPED
from t2t.launch.experiment import SHORT, experiment_of, recipe_of
from t2t.launch.main import STARTED
from t2t.paths import check_directory
from t2t.train.experiment import Experiment


def columns(texts: Mapping[str, str]) -> str:
    """Format options and their descriptions as two columns."""
    width = max(map(len, texts))
    return "\n".join(f"  {option:{width}}  {text}" for option, text in texts.items())


OWN = {
    "--dir RUN": "the run's directory (required)",
    "--vocabulary FILE": "use this vocabulary instead of the task's: a SentencePiece model, a WordPiece vocab.txt, a tokenizer.json, or the vocab.json of a Marian model",
    "--batch-size N": f"rows per batch; short for {SHORT['--batch-size']}",
    "--checkpoint-every N": f"steps between checkpoints; short for {SHORT['--checkpoint-every']}",
    "--eval-every N": f"steps between evaluations, 0 for none; short for {SHORT['--eval-every']}",
    "--import FILE": "a module or a .py file that registers your own tasks; can be repeated",
    "--trust-code": "run the code that the run keeps: use it only for runs of people you trust",
    "--data-dir DIR": "directory of the TensorFlow Datasets data sets",
    "--debug": "show the traceback of an error",
}
"""Options of the command itself, in addition to the options of the recipe."""

USAGE = f"""usage: t2t train RECIPE --dir RUN [--option value ...]

Train a recipe in a run directory, or resume the run in that directory.

RECIPE is one of
  a name from t2t recipes (t5:quickstart, gpt:3-175b, ...)
  from:RUN, which starts from the parameters of another run
  module:function or file.py:function, a recipe of your own

the command's own options:
{columns(OWN)}

common options of recipes (every recipe has about a hundred):
{
    columns(
        {
            "--steps N": "number of training steps",
            "--seed N": "seed of the initial parameters, dropout and the order of the data",
            "--log-every N": "steps between log lines",
            "--optimizer.schedule.peak X": "the highest learning rate",
            "--data.task TASK": "the task to train on (t2t tasks lists the tasks)",
            "--evaluation.tasks TASK ...": "the tasks to evaluate on",
            "--mesh.data N, --mesh.fsdp N, --mesh.tensor N": "device mesh: the size of each axis",
            "--model.dtype TYPE": "type of the computation: float32 or bfloat16",
        }
    )
}

t2t train RECIPE --help lists all options of a recipe in groups. Every field of the recipe's configuration is an option."""


def command(arguments: Sequence[str], imports: tuple[str, ...]) -> int:
    """Train a recipe in a run directory, or resume the run in it."""
    imported = time.time() - STARTED
    parser = argparse.ArgumentParser(prog="t2t train", add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--dir")
    parser.add_argument("--vocabulary")
    try:
        options, rest = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(f"t2t train: {error}") from None
    helped = parse.asks_help(rest)
    if options.recipe is None and helped:
        print(USAGE)
        return DONE
    if options.recipe is None or options.recipe.startswith("-"):
        raise UserError(
            "t2t train: RECIPE is missing: t2t recipes lists them. Example: t2t train t5:quickstart --dir RUN"
        )
    recipe = recipe_of(options.recipe)
    prog = f"t2t train {options.recipe}"
    if options.dir is None and not helped:
        raise UserError(f"{prog}: --dir RUN is missing: it names the run's directory")
    directory = Path()
    if options.dir is not None:
        directory = check_directory(options.dir, "--dir")
        run_code.ready(directory)
    experiment = experiment_of(
        as_begun(options.recipe, recipe(), directory),
        rest,
        prog=prog,
        about=f"{(recipe.__doc__ or '').strip()}\n\nthe command's own options:\n{columns(OWN)}",
        own=("--dir", "--vocabulary"),
        vocabulary=options.vocabulary,
    )
    return _train(directory, options.recipe, experiment, imported)


def _train(directory: Path, recipe: str, experiment: Experiment, imported: float) -> int:
    outcome = run_training(directory, experiment, recipe=recipe, observer=Progress(), began=STARTED, imported=imported)
    if jax.process_index() == 0:
        print(f"report: {directory / report.FILE}", file=sys.stderr)
    if outcome.stopped:
        print(f"stopped at step {outcome.step} with everything saved; the same command resumes", file=sys.stderr)
        return STOPPED
    return DONE

"""`t2t train RECIPE --dir RUN [--option value ...]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jax

from t2t.api import overrides, report
from t2t.api.assembly import run_training
from t2t.api.earlier_recipes import as_begun
from t2t.api.progress import Progress
from t2t.api.quiet import import_tensorflow
from t2t.api.recipes import find, is_own
from t2t.api.user_code import run_code
from t2t.api.vocabulary_file import vocabulary_of
from t2t.errors import UserError
from t2t.launch import parse
from t2t.launch.codes import DONE, STOPPED
from t2t.launch.main import STARTED
from t2t.limits import option
from t2t.paths import check_directory
from t2t.train.experiment import Experiment

SHORT = {option(short): option(name) for short, name in overrides.SHORT.items()}
"""Short options -> those they stand for."""


def columns(texts: Mapping[str, str]) -> str:
    """Return lines of two columns: an option, and what it is for."""
    width = max(map(len, texts))
    return "\n".join(f"  {option:{width}}  {text}" for option, text in texts.items())


OWN = {
    "--dir RUN": "the run's directory (required)",
    "--vocabulary FILE": "a vocabulary in place of the task's: a SentencePiece model, a WordPiece vocab.txt or tokenizer.json",
    "--batch-size N": f"rows of a batch; short for {SHORT['--batch-size']}",
    "--checkpoint-every N": f"steps between two checkpoints; short for {SHORT['--checkpoint-every']}",
    "--eval-every N": f"steps between two evaluations, 0 for none; short for {SHORT['--eval-every']}",
    "--import FILE": "a module, or a .py file, that registers your own tasks; may be given again",
    "--trust-code": "run the code that the run keeps: only for runs of people you trust",
    "--data-dir DIR": "where the data sets of TensorFlow Datasets are",
    "--debug": "show the traceback of a mistake",
}
"""The options that the command has besides the recipe's own."""

USAGE = f"""usage: t2t train RECIPE --dir RUN [--option value ...]

Train a recipe in a run directory, or resume the run that is there.

RECIPE: a name that t2t recipes lists (t5:quickstart, gpt:3-175b, ...), from:RUN to begin with another run's parameters, or your own:
module:function or file.py:function

the command's own options:
{columns(OWN)}

options that most trainings set, of some hundred that every recipe has:
{
    columns(
        {
            "--steps N": "updates to make",
            "--seed N": "of parameters, dropout and the data's order",
            "--log-every N": "steps between two lines of metrics",
            "--optimizer.schedule.peak X": "the highest learning rate",
            "--data.task TASK": "what to train on (t2t tasks lists them)",
            "--evaluation.tasks TASK ...": "what to evaluate on",
            "--mesh.data N, --mesh.fsdp N, --mesh.tensor N": "how devices are laid out",
            "--model.dtype TYPE": "of the computation: float32 or bfloat16",
        }
    )
}

t2t train RECIPE --help describes all options of a recipe, by groups: every value of it is one."""


def command(arguments: Sequence[str], imports: tuple[str, ...]) -> int:
    """Train a recipe in a run directory, or go on with the run that is there."""
    imported = time.time() - STARTED
    words = argparse.ArgumentParser(prog="t2t train", add_help=False, allow_abbrev=False, exit_on_error=False)
    words.add_argument("recipe", nargs="?")
    words.add_argument("--dir")
    words.add_argument("--vocabulary")
    try:
        given, rest = words.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(f"t2t train: {error}") from None
    helped = parse.asks_help(rest)
    if given.recipe is None and helped:
        print(USAGE)
        return DONE
    if given.recipe is None or given.recipe.startswith("-"):
        raise UserError("t2t train: which recipe? t2t recipes lists them: t2t train t5:quickstart --dir RUN")
    if is_own(given.recipe):
        import_tensorflow()  # a recipe of the user's own is likely to register tasks
    recipe = find(given.recipe)
    prog = f"t2t train {given.recipe}"
    if given.dir is None and not helped:
        raise UserError(f"{prog}: where to? --dir RUN names the run's directory")
    directory = Path()
    if given.dir is not None:
        directory = check_directory(given.dir, "--dir")
        run_code.ready(directory)
    experiment = parse.override(
        as_begun(given.recipe, recipe(), directory),
        rest,
        prog=prog,
        description=f"{(recipe.__doc__ or '').strip()}\n\nthe command's own options:\n{columns(OWN)}",
        short=SHORT,
        also=("--dir", "--vocabulary"),
    )
    if given.vocabulary is not None:
        data = replace(experiment.data, vocabulary=vocabulary_of(given.vocabulary))
        experiment = replace(experiment, data=data)
    return _train(directory, given.recipe, experiment, imported)


def _train(directory: Path, recipe: str, experiment: Experiment, imported: float) -> int:
    outcome = run_training(directory, experiment, recipe=recipe, observer=Progress(), began=STARTED, imported=imported)
    if jax.process_index() == 0:
        print(f"report: {directory / report.FILE}", file=sys.stderr)
    if outcome.stopped:
        print(f"stopped at step {outcome.step} with everything saved; the same command goes on", file=sys.stderr)
        return STOPPED
    return DONE

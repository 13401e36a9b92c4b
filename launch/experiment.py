"""The experiment of a command line: a recipe, changed by options. `t2t train`, `plan` and `bench` share it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from t2t.api import overrides
from t2t.api.recipes import Recipe, find, is_own
from t2t.launch import parse
from t2t.limits import option
from t2t.train.experiment import Experiment

SHORT = {option(short): option(name) for short, name in overrides.SHORT.items()}
"""Short options -> the options they stand for."""


def recipe_of(name: str, *, assume: bool = False) -> Recipe:
    """Return a recipe. A user's recipe probably registers tasks, so TensorFlow is imported first, quietly. Raises UserError if it is unknown.

    assume: a preset without published training settings gets common ones.
    """
    if is_own(name):
        from t2t.api.quiet import import_tensorflow

        import_tensorflow()
    return find(name, assume=assume)


def experiment_of(
    experiment: Experiment,
    arguments: Sequence[str],
    *,
    prog: str,
    about: str,
    own: Collection[str],
    vocabulary: str | None = None,
) -> Experiment:
    """Return a recipe's experiment with the values that the options change.

    about: the help of the command.
    own: options of the command, in addition to those of the recipe.
    vocabulary: a vocabulary file that replaces the vocabulary of the task.

    Raises:
      UserError: an unknown option, a value that is not valid, a file that is not a vocabulary.
    """
    experiment = parse.override(experiment, arguments, prog=prog, description=about, short=SHORT, also=own)
    if vocabulary is None:
        return experiment
    from t2t.api.vocabulary_file import vocabulary_of

    return replace(experiment, data=replace(experiment.data, vocabulary=vocabulary_of(vocabulary)))

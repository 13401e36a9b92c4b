"""Mixtures of tasks: explicit rates, or proportional to size with a cap and a temperature (T5, https://arxiv.org/abs/1910.10683, 3.5.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import seqio

from t2t.data.tfds import prepare
from t2t.errors import UserError
from t2t.limits import Configuration, Count, Range
from t2t.tasks.register import check_name, find


@dataclass(frozen=True, kw_only=True)
class ProportionalRate(Configuration):
    """T5's rate of a task with e examples: min(e, cap) ** (1 / temperature).

    cap:         artificial limit on the size, K in the paper; None for no limit.
    temperature: 1 mixes in proportion to size; higher values mix more evenly.
    split:       split whose size counts.
    """

    cap: Count | None = None
    temperature: Annotated[float, Range(1e-3, 1e6, typical=1.0)] = 1.0
    split: str = "train"

    def __call__(self, task: seqio.Task) -> float:
        """Return the rate. Raise UserError if the task's source does not know its size."""
        prepare(task.source)
        size = task.num_input_examples(self.split) if self.split in task.splits else None
        if size is None:
            raise UserError(
                f"task {task.name!r}: its source does not know the number of examples in split {self.split!r},"
                " so the task cannot be mixed by size; give rates."
            )
        return float(min(size, self.cap) if self.cap is not None else size) ** (1.0 / self.temperature)


def mix(
    name: str,
    tasks: Mapping[str, float] | Sequence[str],
    *,
    cap: int | None = None,
    temperature: float = 1.0,
    split: str = "train",
    replace: bool = False,
) -> seqio.Mixture:
    """Register a mixture with SeqIO and return it.

    Args:
      name: letters, digits and `_ . : #`.
      tasks: mapping from task or mixture to its rate, relative to the others; or a sequence of tasks, mixed in proportion
        to their number of examples in `split`.
      cap: for a sequence: the maximum number of examples that a task counts for.
      temperature: for a sequence: rates are raised to the power 1/temperature.
      split: for a sequence: split whose sizes count, whichever split is read later.
      replace: whether to replace an existing mixture of this name.

    Raises:
      UserError: the name is taken; unknown or repeated tasks; a rate, cap or temperature that is not positive; tasks whose
        features or vocabulary differ from the first task's. On reading: a source that does not know its size.
    """
    check_name(name, seqio.MixtureRegistry, replace=replace)
    if isinstance(tasks, str) or not tasks:
        raise UserError(f"mixture {name!r} of {tasks!r}: expected task names with rates, or a list of task names.")
    if isinstance(tasks, Mapping):
        if cap is not None or temperature != 1.0:
            raise UserError(
                f"mixture {name!r}: cap and temperature have no effect with explicit rates; give a list of tasks."
            )
        for task, rate in tasks.items():
            if not 0 < rate < float("inf"):
                raise UserError(f"rate {rate!r} of {task!r} in mixture {name!r}: must be a positive number.")
        parts: list[tuple[Any, Any]] = [(find(task), float(rate)) for task, rate in tasks.items()]
    else:
        if cap is not None and cap < 1:
            raise UserError(f"cap={cap} of mixture {name!r}: must be 1 or more.")
        if not 0 < temperature < float("inf"):
            raise UserError(f"temperature={temperature} of mixture {name!r}: must be a positive number.")
        if len(set(tasks)) != len(tasks):
            raise UserError(f"mixture {name!r}: {list(tasks)} names a task twice.")
        by_size = ProportionalRate(cap=cap, temperature=temperature, split=split)
        parts = [(find(task), by_size) for task in tasks]
        for part, _ in parts:
            if isinstance(part, seqio.Mixture):
                raise UserError(
                    f"{part.name!r} in mixture {name!r} is a mixture, but only tasks can be mixed by size; list its tasks or give rates."
                )
    first = parts[0][0]
    for part, _ in parts[1:]:
        _check_compatible(name, first, part)
    mixture = seqio.Mixture(name, parts)
    seqio.MixtureRegistry.remove(name)
    seqio.MixtureRegistry.add_provider(name, mixture)
    return mixture


def _check_compatible(name: str, first: seqio.Task | seqio.Mixture, other: seqio.Task | seqio.Mixture) -> None:
    ours, theirs = first.output_features, other.output_features
    if set(ours) != set(theirs):
        raise UserError(
            f"mixture {name!r}: {first.name!r} has features {', '.join(ours)} and {other.name!r} has"
            f" {', '.join(theirs)}; all tasks of a mixture need the same features."
        )
    for key in ours:
        if ours[key].vocabulary != theirs[key].vocabulary:
            raise UserError(
                f"mixture {name!r}: {first.name!r} and {other.name!r} have different vocabularies for {key!r}; register both with the same vocabulary."
            )

"""The student of a distillation, made from its teacher: the same model with half of the layers."""

from __future__ import annotations

from dataclasses import replace

from t2t.errors import UserError
from t2t.models import TransformerConfig
from t2t.objectives import CrossEntropy, Distillation
from t2t.optim import Trainable
from t2t.train.experiment import Experiment, StartFromLayers


def student_of(teacher: Experiment, directory: str, *, where: str) -> Experiment:
    """Return the experiment that trains a student of a run, half as deep, from every second layer of it (Sanh et al. 2019, section 2).

    teacher:   the experiment that starts from the run.
    directory: the run.
    where:     source of the run's name, for errors.
    Raises UserError if the run's model has no stacks of layers, or an adapter.
    """
    config, start_from = teacher.model, teacher.start_from
    if not isinstance(config, TransformerConfig) or not config.can("predict"):
        raise UserError(
            f"{where}: the run's model is a {type(config).__name__}, which has no student: it has no stacks of layers whose logits score targets."
        )
    if teacher.adapter.enabled:
        raise UserError(
            f"{where}: {directory} has an adapter, whose parameters are not those of a layer. Merge it into the model first:"
            f" t2t.load({directory!r}).merge(DIR)."
        )
    halves = {}
    for side in config.sides:
        stack = getattr(config, side)
        halves[side] = replace(stack, num_layers=-(-stack.num_layers // 2))
    old = teacher.objective
    objective = Distillation(teacher=directory, teacher_step=start_from.step)
    if isinstance(old, CrossEntropy):
        objective = replace(objective, z_loss=old.z_loss, label_smoothing=old.label_smoothing)
    return replace(
        teacher,
        model=replace(config, **halves),
        objective=objective,
        trainable=Trainable(),
        start_from=StartFromLayers(run=directory, step=start_from.step),
    )

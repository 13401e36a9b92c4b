"""Training objectives. An objective is a frozen configuration, separate from the model."""

from t2t.objectives.contrastive import Contrastive
from t2t.objectives.cross_entropy import CrossEntropy
from t2t.objectives.distillation import Distillation
from t2t.objectives.objective import Objective
from t2t.objectives.preference import Preference

__all__ = ["Contrastive", "CrossEntropy", "Distillation", "Objective", "Preference"]

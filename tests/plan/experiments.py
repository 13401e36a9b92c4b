"""Small experiments to plan."""

from t2t import models
from t2t.data import Data
from t2t.optim import AdamW, Constant
from t2t.sharding import MeshConfig
from t2t.train.experiment import Experiment

AS_MANY_AS_THERE_ARE = MeshConfig()


def decoder(*, mesh=AS_MANY_AS_THERE_ARE, batch_size=8, length=16, microbatches=1, **model):
    """A GPT of few, even sizes, none of which is another's."""
    sizes = {"layers": 3, "embed": 64, "heads": 4, "mlp": 160, "vocab_size": 96, "max_length": length, "dropout": 0.0}
    return Experiment(
        model=models.gpt.gpt(**{**sizes, **model}),
        data=Data(task="c4_causal_lm", inputs_length=1, targets_length=length - 1, batch_size=batch_size),
        optimizer=AdamW(schedule=Constant(peak=1e-3)),
        mesh=mesh,
        microbatches=microbatches,
    )

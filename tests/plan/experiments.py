"""Small experiments to plan."""

from t2t import models
from t2t.data import Data
from t2t.optim import AdamW, Constant
from t2t.sharding import MeshConfig
from t2t.train.experiment import Experiment

AS_MANY_AS_THERE_ARE = MeshConfig()


def decoder(*, mesh=AS_MANY_AS_THERE_ARE, batch_size=8, length=16, microbatches=1, **model):
    """Return a small GPT with distinct, even sizes."""
    sizes = {
        "num_layers": 3,
        "d_model": 64,
        "num_heads": 4,
        "d_ff": 160,
        "vocab_size": 96,
        "max_length": length,
        "dropout": 0.0,
    }
    return Experiment(
        model=models.gpt.gpt(**{**sizes, **model}),
        data=Data(task="c4_causal_lm", inputs_length=1, targets_length=length - 1, batch_size=batch_size),
        optimizer=AdamW(schedule=Constant(peak=1e-3)),
        mesh=mesh,
        microbatches=microbatches,
    )


def encoder_decoder(*, mesh=AS_MANY_AS_THERE_ARE, batch_size=8, length=16, targets=None, **model):
    """Return a small T5 with even sizes."""
    sizes = {"num_layers": 2, "d_model": 64, "num_heads": 4, "d_ff": 160, "vocab_size": 96, "dropout": 0.0}
    return Experiment(
        model=models.t5.t5(**{**sizes, **model}),
        data=Data(
            task="c4_span_corruption", inputs_length=length, targets_length=targets or length, batch_size=batch_size
        ),
        optimizer=AdamW(schedule=Constant(peak=1e-3)),
        mesh=mesh,
    )

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.checkpoint import Checkpoints
from t2t.data.config import Data
from t2t.errors import UserError
from t2t.export import read_safetensors
from t2t.launch.export import export
from t2t.optim import AdamW
from t2t.train.experiment import Experiment
from t2t.train.guard import healthy
from t2t.train.run import CHECKPOINTS, RunRecord, open_run
from t2t.train.state import TrainState
from tests.export.exported_models import VOCABULARY, make


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with checkpoints of steps 1 and 2, the second's parameters doubled."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    model, params = make("bert")
    experiment = Experiment(model=model.config, data=Data(task="none"), optimizer=AdamW())
    open_run(directory, RunRecord(recipe="test", experiment=experiment, vocabulary=VOCABULARY))
    transform = AdamW().build(model.specs)
    with Checkpoints(directory / CHECKPOINTS) as checkpoints:
        for step in (1, 2):
            scaled = jax.tree.map(lambda x, step=step: x * step, params)
            state = TrainState(
                step=jnp.int32(step),
                params=scaled,
                opt_state=transform.init(scaled),
                key=jax.random.key(0),
                health=healthy(),
            )
            checkpoints.save(step, state)
    return directory, params


def test_exports_the_newest_checkpoint_or_the_one_asked_for(run, tmp_path, capsys):
    directory, params = run
    for step, factor in ((None, 2), (1, 1)):
        out = tmp_path / str(step)
        export(str(directory), format="safetensors", out=str(out), step=step)
        assert f"{out}/model.safetensors" in capsys.readouterr().out
        back = read_safetensors(out)
        jax.tree.map(lambda a, b, f=factor: np.testing.assert_array_equal(a, np.asarray(b) * f), back.params, params)


def test_exports_stablehlo(run, tmp_path):
    export(str(run[0]), format="stablehlo", out=str(tmp_path / "out"), platforms=("cpu",))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "README.md",
        "flatbuffers.zip",
        "load.py",
        "logits.stablehlo",
        "manifest.json",
        "model.safetensors",
    }


def test_mistakes_are_told_before_any_work(run, tmp_path):
    directory = str(run[0])
    with pytest.raises(UserError, match=r"unknown format 'onnx' \(--format\)\. There are: .*safetensors"):
        export(directory, format="onnx", out=str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"Nearest: \S*run\."):
        export(directory[:-1], format="safetensors", out=str(tmp_path / "out"))
    with pytest.raises(UserError, match="no checkpoint of step 9"):
        export(directory, format="safetensors", out=str(tmp_path / "out"), step=9)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        export(directory, format="safetensors", out=str(tmp_path))

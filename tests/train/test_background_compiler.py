"""Programs made in a thread: what fails there because of imports under way elsewhere is made by whoever asks for it."""

import threading

import pytest

from t2t.api.overrides import overridden
from t2t.api.recipes import find
from t2t.train.background_compiler import THREAD, BackgroundCompiler
from t2t.train.program import Program


@pytest.fixture(scope="module")
def experiment():
    small = {"batch_size": 8, "model.encoder.num_layers": 1, "model.decoder.num_layers": 1, "model.vocab_size": 384}
    return overridden(find("t5:quickstart")(), small)


def failing_in_the_thread(monkeypatch, method, error):
    made = getattr(Program, method)

    def once(*arguments, **named):
        if threading.current_thread().name == THREAD:
            raise error
        return made(*arguments, **named)

    monkeypatch.setattr(Program, method, once)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["of", "create", "compiled"])
def test_an_import_that_fails_in_the_thread_is_made_up_for(method, experiment, monkeypatch):
    failing_in_the_thread(monkeypatch, method, ModuleNotFoundError("No module named 'jax._src.hijax.HiType'"))
    compiler = BackgroundCompiler(experiment, newest=None)
    assert compiler.program() is compiler.program()
    state = compiler.state()
    assert int(state.step) == 0
    step = compiler.step()
    assert step is compiler.step()
    assert "f32" in compiler.text()


def test_other_errors_are_raised_to_who_asks(experiment, monkeypatch):
    failing_in_the_thread(monkeypatch, "of", ZeroDivisionError("wrong"))
    compiler = BackgroundCompiler(experiment, newest=None)
    with pytest.raises(ZeroDivisionError, match="wrong"):
        compiler.program()


def test_an_import_that_fails_for_everyone_is_raised(experiment, monkeypatch):
    def missing(*arguments, **named):
        raise ModuleNotFoundError("No module named 'missing'")

    monkeypatch.setattr(Program, "of", missing)
    with pytest.raises(ModuleNotFoundError, match="missing"):
        BackgroundCompiler(experiment, newest=None).program()

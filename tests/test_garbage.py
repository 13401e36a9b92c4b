import gc

import pytest

from t2t import garbage
from t2t.launch.main import run


@pytest.fixture(autouse=True)
def collecting():
    yield
    garbage.resume()
    gc.enable()


def test_collecting_is_put_off_and_taken_up_again():
    garbage.postpone()
    garbage.postpone()
    with garbage.postponed():
        assert not gc.isenabled()
    assert not gc.isenabled()
    garbage.resume()
    assert gc.isenabled()
    with garbage.postponed():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_who_collects_nothing_is_left_to_it():
    gc.disable()
    garbage.postpone()
    with garbage.postponed():
        pass
    garbage.resume()
    assert not gc.isenabled()


@pytest.mark.parametrize("words", [["recipes"], ["train", "t5:no-such-recipe", "--dir", "run"]])
def test_a_command_that_has_ended_leaves_collecting_on(words, capsys):
    run(words)
    assert gc.isenabled()

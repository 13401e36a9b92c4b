"""What memory is left, and a training that wants more."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import jax
import pytest

from t2t import memory
from t2t.errors import OutOfMemory, in_one_line, is_out_of_memory
from t2t.sharding import MeshConfig
from t2t.train.background_compiler import check_memory
from t2t.train.program import Program
from tests.train.test_guard import TINY


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell in other ways")
def test_the_least_of_what_the_machine_and_the_limit_leave():
    assert 0 < memory.available() < 1 << 50
    code = "from t2t import memory; print(memory.available())"
    limited = ["bash", "-c", f"ulimit -v 2000000; exec {sys.executable} -c '{code}'"]
    done = subprocess.run(limited, capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 2_000_000 << 10


def test_a_state_that_does_not_fit_is_refused_before_it_is_made():
    program = Program.of(replace(TINY, mesh=MeshConfig(data=8)), MeshConfig(data=8).build())
    state = program.abstract_state()
    whole = 8 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state, state.params)))
    check_memory(program, whole)
    check_memory(program, None)
    with pytest.raises(OutOfMemory, match=r"need 0\.\d GB of memory, but only 0\.\d GB are left") as raised:
        check_memory(program, whole - 1)
    assert is_out_of_memory(raised.value)
    assert in_one_line(raised.value).startswith("the parameters, the optimizer state and the gradients need")

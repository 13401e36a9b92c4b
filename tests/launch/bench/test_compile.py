import jax
import numpy as np
import pytest

from t2t.launch.bench import compile
from t2t.launch.bench.timing import Limits
from tests.launch.bench.workloads import named, workload


@pytest.mark.slow
def test_the_stages_add_up_and_the_cache_is_as_before():
    before = jax.config.jax_enable_compilation_cache
    found = named(list(compile.measure(workload("decoder", limits=Limits(repeats=1)))))
    stages = np.array([found[name].samples for name in ("trace", "lower", "compile")])
    assert (stages > 0).all()
    np.testing.assert_allclose(stages.sum(axis=0), found["in all"].samples)
    assert jax.config.jax_enable_compilation_cache == before


def test_no_cache_writes_nothing(tmp_path):
    directory = jax.config.jax_compilation_cache_dir
    with compile.no_cache():
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        jax.jit(lambda x: x * 1.75 + 3.5)(1.0)
    jax.config.update("jax_compilation_cache_dir", directory)
    assert list(tmp_path.iterdir()) == []

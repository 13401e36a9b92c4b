import numpy as np
import pytest

from t2t.errors import UserError
from t2t.launch.bench import data, step
from tests.launch.bench.workloads import named, workload

pytestmark = pytest.mark.slow  # TensorFlow, and two programs


def test_the_pipelines_rate_is_its_tokens_over_its_time():
    found = named(list(data.measure(workload("encoder_decoder"))))
    whole, core = found["pipeline, this process"], found["pipeline, a core"]
    # Of all batches together, the rate lies between the slowest batch's and the fastest's, however unequal they are.
    rate = whole.details["tokens"] / whole.details["seconds"]
    assert min(whole.samples) * (1 - 1e-9) <= rate <= max(whole.samples) * (1 + 1e-9)
    assert core.median * core.details["core_seconds"] == pytest.approx(whole.details["tokens"])
    assert all(0.5 < share <= 1.0 for share in found["places filled"].samples)  # packed
    assert all(0.0 <= share <= 1.0 for share in found["training waits for data"].samples)
    assert found["training waits for data"].details["steps"] == 2


def test_steps_on_the_tasks_own_batches_count_what_is_no_padding():
    work = workload("encoder_decoder", source="task")
    found = named(list(step.measure(work)))
    places = found["tokens"].details["places"]
    assert places == 8 * (24 + 16)
    assert places / 2 < found["tokens"].details["a_batch"] < places
    assert np.median(found["examples"].samples) > 8 / found["step"].median / 10


def test_a_task_that_is_not_for_the_model_is_refused():
    with pytest.raises(UserError, match="reverse_words"):
        next(data.measure(workload("encoder")))

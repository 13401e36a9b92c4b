from hypothesis import given
from hypothesis import strategies as st

from t2t.checkpoint.retention import CheckpointConfig, expired, ranking


def losses(*values):
    return {i + 1: {"eval/loss": value} for i, value in enumerate(values)}


def test_best_first_by_mode_and_equals_newest_first():
    assert ranking(losses(2.0, 1.0, 1.0, 3.0), CheckpointConfig()) == [3, 2, 1, 4]
    assert ranking(losses(2.0, 1.0, 1.0, 3.0), CheckpointConfig(best_mode="max")) == [4, 1, 3, 2]
    assert ranking({1: {"other": 1.0}, 2: {"eval/loss": float("nan")}}, CheckpointConfig()) == []


@given(
    st.dictionaries(st.integers(0, 99), st.fixed_dictionaries({}, optional={"eval/loss": st.floats()})),
    st.integers(1, 4),
    st.integers(0, 4),
)
def test_the_last_and_the_best_are_kept_and_no_more(metrics, last, best):
    config = CheckpointConfig(keep_last=last, keep_best=best)
    gone = set(expired(metrics, config))
    kept = set(metrics) - gone
    assert set(sorted(metrics)[-last:]) <= kept
    assert set(ranking(metrics, config)[:best]) <= kept
    assert len(kept) <= last + best

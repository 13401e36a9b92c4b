import jax
import jax.numpy as jnp

from t2t.train.meter import RUNNING, Meter


class Waited:
    wait_seconds = 0.0


def test_the_loop_is_at_most_a_few_steps_ahead_of_the_devices():
    """Or it would wait for data, and count it, while the devices have work."""

    @jax.jit
    def step(state):
        state = jax.lax.fori_loop(0, 20, lambda _, x: jnp.tanh(x @ x), state)
        return state, {"tokens": state.sum()}

    meter = Meter(Waited(), None)
    state, _ = jax.block_until_ready(step(jnp.eye(500)))
    made = []
    for i in range(8):
        state, metrics = step(state)
        made.append(metrics)
        meter.add(i + 1, metrics)
        assert all(old["tokens"].is_ready() for old in made[:-RUNNING])

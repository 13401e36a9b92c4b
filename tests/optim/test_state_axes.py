import jax
import jax.numpy as jnp
import optax
import pytest

from t2t.optim import Adafactor, AdamW, Optax, StableAdamW, state_axes
from t2t.optim.paths import flatten_specs
from t2t.optim.state_axes import abstract_params
from tests.optim.stacked_toy import STACKED, spec


def leaves(transform, specs):
    """Return (state path, leaf, axes) of each leaf of the state."""
    state = jax.eval_shape(transform.init, abstract_params(specs))
    axes = state_axes(transform, specs)
    flat, tree = jax.tree_util.tree_flatten_with_path(state)
    return [(jax.tree_util.keystr(p), leaf, a) for (p, leaf), a in zip(flat, tree.flatten_up_to(axes), strict=True)]


@pytest.mark.parametrize(
    ("config", "copies"),
    [
        (AdamW(), 2),
        (StableAdamW(), 2),
        (Optax(name="optax.lion"), 1),
        (Optax(name="optax.lion", per_layer=False, clip_norm=1.0), 1),
        (Optax(name="optax.adamw", arguments={"weight_decay": 0.1}), 2),
    ],
)
def test_moments_lie_as_their_parameters(config, copies):
    found = leaves(config.build(STACKED), STACKED)
    for path, leaf, axes in found:
        assert len(axes) == len(leaf.shape), path
    for name, s in flatten_specs(STACKED).items():
        key = "".join(f"[{part!r}]" for part in name.split("/"))
        mine = [axes for path, leaf, axes in found if path.endswith(key)]
        assert mine == [s.axes] * copies, name
    others = [axes for path, leaf, axes in found if leaf.ndim == 0]
    assert others
    assert set(others) == {()}


def test_adafactors_vectors_keep_the_remaining_axes():
    axes = {path: a for path, _, a in leaves(Adafactor(min_dimension=4).build(STACKED), STACKED)}

    def of(field, *keys):
        end = f".{field}" + "".join(f"[{key!r}]" for key in keys)
        return next(a for path, a in axes.items() if path.endswith(end))

    # v_row lacks the larger of the two dimensions, v_col the smaller.
    assert of("v_row", "embedding") == ("embed",)
    assert of("v_col", "embedding") == ("vocab",)
    assert of("v", "embedding") == (None,)
    assert of("v_row", "decoder", "mlp") == ("layers", "embed")
    assert of("v_col", "decoder", "mlp") == ("layers", "mlp")
    assert of("v_row", "encoder", "query") == ("layers", "embed")
    assert of("v_col", "encoder", "query") == ("layers", "heads")
    assert of("v_row", "encoder", "out") == ("layers", "embed")
    assert of("v_col", "encoder", "out") == ("layers", "heads")
    # A square matrix: which dimension is gone shows only in the name.
    assert of("v_row", "encoder", "mlp") == ("layers", "embed")
    assert of("v_col", "encoder", "mlp") == ("layers", "mlp")
    assert of("v", "encoder", "norm") == ("layers", "embed")
    assert of("v_row", "encoder", "norm") == (None, None)


def test_square_matrix_names_agree_with_what_optax_reduces():
    transform = optax.scale_by_factored_rms(min_dim_size_to_factor=2)
    specs = {"w": spec((4, 4), "embed", "mlp")}
    gradient = {"w": jnp.arange(4.0)[:, None] * jnp.ones((1, 4))}  # differs along embed alone
    _, state = transform.update(gradient, transform.init(gradient), gradient)
    axes = state_axes(transform, specs)
    varying = state.v_row["w"] if axes.v_row["w"] == ("embed",) else state.v_col["w"]
    other = state.v_col["w"] if axes.v_row["w"] == ("embed",) else state.v_row["w"]
    assert {axes.v_row["w"], axes.v_col["w"]} == {("embed",), ("mlp",)}
    assert jnp.ptp(varying) > 1
    assert jnp.ptp(other) < 1e-6


def test_chained_and_masked_transforms():
    specs = {"a": spec((4, 6), "embed", "mlp"), "b": {"a": spec((6,), "mlp")}}
    transform = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.masked(optax.trace(0.9), {"a": False, "b": {"a": True}}),
        optax.ema(0.9, accumulator_dtype=jnp.bfloat16),
        optax.scale_by_schedule(lambda step: 1.0),
    )
    found = {path: axes for path, _, axes in leaves(transform, specs)}
    assert sorted(found.values(), key=str) == sorted([("mlp",), ("mlp",), ("embed", "mlp"), (), ()], key=str)

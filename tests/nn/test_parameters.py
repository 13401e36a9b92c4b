"""Parameters outward: names, specs, and first values that depend on the key and the name alone."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t2t.nn.initializers import ONES, Normal
from t2t.nn.model import ParamSpec
from t2t.nn.parameters import Definition, parameter, rebind, stack, unbind


class Leaf(nnx.Module):
    def __init__(self, size):
        self.kernel = parameter((size, 3), ("embed", "mlp"), Normal(1.0))
        self.scale = parameter((3,), (None,), ONES, decay=False)

    def __call__(self, x):
        return (x @ self.kernel[...]) * self.scale[...]


class Pair(nnx.Module):
    def __init__(self):
        self.first = Leaf(4)
        self.layers = stack(Leaf(3), 5)


def test_specs_are_a_nested_dict_with_layers_first():
    specs = Definition(Pair()).specs
    assert specs["first"]["kernel"] == ParamSpec((4, 3), jnp.float32, ("embed", "mlp"), True)
    assert specs["first"]["scale"] == ParamSpec((3,), jnp.float32, (None,), False)
    assert specs["layers"]["kernel"] == ParamSpec((5, 3, 3), jnp.float32, ("layers", "embed", "mlp"), True)
    assert type(specs) is dict


def test_init_gives_the_specs_shapes_and_layers_differ():
    definition = Definition(Pair())
    params = jax.jit(definition.init)(jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, params) == jax.tree.map(
        lambda s: s.shape, definition.specs, is_leaf=lambda s: isinstance(s, ParamSpec)
    )
    assert not np.array_equal(params["layers"]["kernel"][0], params["layers"]["kernel"][1])


def test_a_parameter_does_not_depend_on_its_neighbours():
    class Alone(nnx.Module):
        def __init__(self):
            self.first = Leaf(4)

    key = jax.random.key(3)
    alone, pair = Definition(Alone()).init(key), Definition(Pair()).init(key)
    np.testing.assert_array_equal(alone["first"]["kernel"], pair["first"]["kernel"])


def test_bind_and_a_layer_of_a_stack():
    definition = Definition(Pair())
    params = definition.init(jax.random.key(0))
    module = definition.bind(params)
    x = jnp.ones((2, 4))
    np.testing.assert_array_equal(module.first(x), x @ params["first"]["kernel"])
    graph, layers = unbind(module.layers)
    third = rebind(graph, jax.tree.map(lambda p: p[2], layers))
    np.testing.assert_array_equal(third(jnp.ones((1, 3))), jnp.ones((1, 3)) @ params["layers"]["kernel"][2])

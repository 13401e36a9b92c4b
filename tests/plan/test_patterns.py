"""Planning stacks whose layers follow a pattern, with a mixer of a user's own."""

import jax
import pytest

from t2t.models.config import LayerOptions
from t2t.optim.paths import flatten_specs
from t2t.plan.estimate import _depth
from t2t.plan.plan import estimate_plan, prepare
from t2t.plan.topology import Topology
from t2t.sharding import MeshConfig
from tests.models.recurrence import RecurrenceConfig
from tests.plan.experiments import decoder

OWN = LayerOptions(mixer=RecurrenceConfig(inner=64))


@pytest.mark.parametrize(
    ("layers", "pattern"), [(3, ()), (4, (OWN, LayerOptions())), (5, (OWN, LayerOptions())), (3, (OWN,) * 4)]
)
def test_layers_are_counted_whatever_their_pattern(layers, pattern):
    model = decoder(num_layers=layers, pattern=pattern).model.build()
    assert _depth(flatten_specs(model.specs)) == layers


def test_a_pattern_with_an_own_mixer_is_foreseen():
    topology = Topology.parse("h100:1x1")
    plain, mixed = (
        estimate_plan(
            prepare(decoder(num_layers=4, pattern=pattern, mesh=MeshConfig(data=1)), topology, jax.devices()[:1]),
            topology,
        )
        for pattern in ((), (OWN, LayerOptions()))
    )
    assert mixed.parameters != plain.parameters
    # Per token and layer: the recurrence has four products of 64 x 64, as attention has, and none of queries with keys.
    assert 0 < mixed.flops.model < plain.flops.model
    assert mixed.memory.total > 0

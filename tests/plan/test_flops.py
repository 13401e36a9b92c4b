import dataclasses

import jax
import jax.numpy as jnp
import pytest

from t2t.nn.model import ParamSpec
from t2t.plan import flops
from t2t.sharding import MeshConfig
from t2t.train.program import Program
from tests.plan.experiments import decoder


def counted(experiment):
    mesh = dataclasses.replace(experiment, mesh=MeshConfig(data=1)).mesh.build(jax.devices()[:1])
    return flops.count(Program.of(experiment, mesh))


def test_a_loop_counts_as_often_as_it_runs():
    def function(x, w):
        return jax.lax.scan(lambda carry, kernel: (carry @ kernel, None), x, w)[0]

    x, w = jnp.zeros((2, 8)), jnp.zeros((5, 8, 8))
    assert flops.dots(function, x, w) == {"float32": 5 * 2 * 2 * 8 * 8}


EXPERTS = {"num_experts": 4, "experts_per_token": 2, "moe_every": 3, "biases": False, "gated": True}


@pytest.mark.parametrize("options", [{}, EXPERTS], ids=["dense", "experts"])
def test_six_a_parameter_that_processes_a_token_and_attention(options):
    experiment = decoder(**options)
    rows, length, layers, embed = 8, 16, 3, 64
    kernels = sum(
        spec.used * spec.size
        for spec in jax.tree.leaves(experiment.model.build().specs, is_leaf=lambda x: isinstance(x, ParamSpec))
        if len(spec.shape) - sum(name in spec.axes for name in ("layers", "experts")) == 2
        and "positions" not in spec.axes
    )  # the table of tokens counts once, as the head
    attention = 12 * layers * embed * length  # Chowdhery et al. 2022, appendix B: 12 L H Q T a token
    assert counted(experiment).model == rows * length * (6 * kernels + attention)


def test_the_room_of_experts_counts_whether_tokens_fill_it_or_not():
    plain, limited = (counted(decoder(**EXPERTS, expert_capacity=room)).model for room in (None, 1.5))
    rows, length, experts, chosen, products = 8, 16, 4, 2, 3 * 64 * 160
    room = 1.5 * chosen * length / experts  # of each of the experts in each row
    assert limited - plain == 6 * products * rows * (experts * room - chosen * length)


def test_remat_computes_the_forward_pass_again_and_no_microbatch_changes_anything():
    plain, again = counted(decoder()), counted(decoder(remat="full"))
    assert plain.model == again.model == plain.total
    assert 1.15 < again.total / again.model < 4 / 3
    assert counted(decoder(microbatches=4)) == plain


def test_products_count_by_the_type_they_are_computed_in():
    narrow = counted(decoder(dtype="bfloat16")).hardware
    # Logits are float32, and yet no product is of float32 operands, in the gradient neither.
    assert narrow == {"bfloat16": counted(decoder()).total}


def test_eight_bits_count_as_such():
    plain = counted(decoder())
    rows, length, layers, embed, mlp = 8, 16, 3, 64, 160
    of_blocks = 2 * rows * length * layers * (4 * embed * embed + 2 * embed * mlp)
    int8, fp8 = (counted(decoder(quantization=kind)) for kind in ("int8", "fp8"))
    # The kernels' gradients stay float32 with int8.
    assert int8.hardware == {"int8": 2 * of_blocks, "float32": plain.total - 2 * of_blocks}
    assert fp8.hardware == {"float8": 3 * of_blocks, "float32": plain.total - 3 * of_blocks}
    assert int8.model == fp8.model == plain.model


def test_it_agrees_with_xla_where_no_layer_is_hidden_in_a_loop():
    # One layer: XLA's count of a scan's body is the whole. It counts sums, exponentials and Adam besides.
    experiment = decoder(num_layers=1, d_model=128, d_ff=512, mesh=MeshConfig(data=1))
    program = Program.of(experiment, experiment.mesh.build(jax.devices()[:1]))
    compiled = program.step().lower(program.abstract_state(), program.abstract_batch()).compile()
    ours, theirs = flops.count(program).total, compiled.cost_analysis()["flops"]
    assert ours <= theirs < 1.25 * ours

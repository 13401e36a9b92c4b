from dataclasses import replace

import jax
import pytest

from t2t.optim import Ema
from t2t.plan.compile import compile_step, out_of_memory
from t2t.plan.memory import compiled_memory, state_bytes
from t2t.sharding import MeshConfig
from t2t.train.program import Program
from tests.plan.experiments import decoder


def on_each_device(tree):
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return set(held.values())


def test_parameters_and_optimizer_are_what_real_arrays_take():
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    program = Program.of(decoder(mesh=mesh), mesh.build())
    state, estimated = program.create(0), state_bytes(program)
    assert on_each_device(state.params) == {estimated.parameters}
    assert on_each_device(state.opt_state) == {estimated.optimizer}
    assert estimated.ema == 0


def test_a_running_mean_takes_the_memory_of_the_parameters_again():
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    plain = Program.of(decoder(mesh=mesh), mesh.build())
    program = Program.of(replace(decoder(mesh=mesh), ema=Ema(decay=0.99)), mesh.build())
    estimated = state_bytes(program)
    assert on_each_device(program.create(0).ema) == {estimated.ema}
    assert estimated.total - state_bytes(plain).total == estimated.parameters
    compiled = compile_step(program)
    memory = compiled_memory(program, compiled.hlo, compiled.analysis)
    assert memory.total == pytest.approx(
        compiled.analysis.argument_size_in_bytes + compiled.analysis.temp_size_in_bytes, rel=0.05
    )


def test_activations_kept_are_read_from_the_program():
    # With full rematerialisation a layer keeps its input alone: layers x rows x length x width.
    mesh, microbatches = MeshConfig(data=4, tensor=2), 2
    program = Program.of(decoder(mesh=mesh, remat="full", microbatches=microbatches), mesh.build())
    compiled = compile_step(program)
    memory = compiled_memory(program, compiled.hlo, compiled.analysis)
    assert memory.activations == 3 * (8 / 4 / microbatches) * 16 * 64 * 4
    assert memory.gradients == memory.parameters
    assert memory.total == pytest.approx(
        compiled.analysis.argument_size_in_bytes + compiled.analysis.temp_size_in_bytes, rel=0.05
    )


def test_an_update_takes_no_copy_of_what_it_updates():
    # Gradients, the update whose entries are checked, and what the layers need; a copy of the moments, which XLA's CPU compiler makes unless told, or
    # which the step would need if it waited for the check, would be twice the gradients again.
    experiment = decoder(num_layers=4, d_model=128, num_heads=2, d_ff=512, vocab_size=64, remat="full", batch_size=1)
    program = Program.of(experiment, experiment.mesh.build(jax.devices()[:1]))
    compiled = compile_step(program)
    assert compiled.analysis.temp_size_in_bytes < 2.4 * state_bytes(program).gradients


def test_the_compilers_sizes_are_read():
    gib = 2**30
    temporaries = out_of_memory(
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (281.50G) exceeds available HBM (15.75G)."
    )
    assert (temporaries.needed, temporaries.available) == (281.5 * gib, 15.75 * gib)
    whole = out_of_memory(
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.54G of 15.75G hbm. Exceeded hbm capacity by 2.79G."
    )
    assert (whole.needed, whole.available) == (18.54 * gib, 15.75 * gib)
    assert out_of_memory("RESOURCE_EXHAUSTED: too bad").needed is None

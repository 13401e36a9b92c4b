"""MaxText: the training step of its LLaMA, compiled by its own training loop, on the CPU."""

from __future__ import annotations

import os
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

# Disable the Google Cloud clients. MaxText reads this during import.
os.environ.setdefault("DECOUPLE_GCLOUD", "TRUE")

import jax
import jax.numpy as jnp
import numpy as np
from maxtext.trainers.pre_train import train as trainer
from maxtext.utils.exceptions import StopTraining

from benchmarks import batches
from benchmarks.cases import CLIP_NORM, RATE, Case
from benchmarks.protocol import Prepared, Unsupported, serve

PACKAGES = ("maxtext", "jax", "jaxlib", "flax", "optax")


def settings(case: Case, directory: str) -> list[str]:
    """Return the arguments of `python -m maxtext.trainers.pre_train.train` for the case."""
    sizes = case.sizes
    base = Path(trainer.__file__).parents[2] / "configs" / "base.yml"
    chosen = {
        "run_name": "benchmark",
        "base_output_directory": directory,
        "hardware": "cpu",
        "skip_jax_distributed_system": "true",
        "dataset_type": "synthetic",
        "enable_checkpointing": "false",
        "enable_tensorboard": "false",
        "log_config": "false",
        "decoder_block": "llama2",
        "base_num_decoder_layers": sizes.num_layers,
        "base_emb_dim": sizes.d_model,
        "base_num_query_heads": sizes.num_heads,
        "base_num_kv_heads": sizes.num_heads,
        "head_dim": sizes.head_dim,
        "base_mlp_dim": case.d_ff,
        "vocab_size": sizes.vocab_size,
        "max_target_length": case.length,
        "per_device_batch_size": sizes.rows,
        "packing": "false",
        "dtype": "float32",
        "weight_dtype": "float32",
        "attention": "dot_product",
        "remat_policy": "none",
        "scan_layers": "false",  # our peer unrolls its layers too
        "opt_type": "adamw",
        "adam_b2": 0.95,
        "adam_weight_decay": 0.1,
        "gradient_clipping_threshold": CLIP_NORM,
        "learning_rate": RATE,
        "steps": 1_000_000,
    }
    return ["train", str(base), *(f"{name}={value}" for name, value in chosen.items())]


def prepare(case: Case) -> Prepared:
    """Run the setup and compilation of MaxText's training loop, and take its compiled step before the first iteration."""
    if case.work != "train" or case.model != "llama":
        raise Unsupported("MaxText is only measured for training LLaMA")
    if case.optimizer != "adamw":
        raise Unsupported("MaxText has no Adafactor")
    taken: dict[str, Any] = {}

    def take(devices: dict[str, Any], variables: dict[str, Any], constants: dict[str, Any]) -> None:
        taken.update(devices, config=constants["config"], batch=variables["data_loader"].load_next_batch())
        raise StopTraining("setup is complete")

    iteration, trainer.training_loop_iteration = trainer.training_loop_iteration, take
    try:
        with tempfile.TemporaryDirectory() as directory:
            trainer.run(*trainer.initialize(settings(case, directory)))
    finally:
        trainer.training_loop_iteration = iteration
    state, step, mesh, rules = (
        taken["state"],
        taken["p_train_step"],
        taken["mesh"],
        taken["config"].logical_axis_rules,
    )
    rows = batches.rows(case, case.length)
    arrays = {"inputs": rows.ids, "targets": np.roll(rows.ids, -1, axis=1)}
    batch = {name: jax.device_put(arrays.get(name, array), array.sharding) for name, array in taken["batch"].items()}

    def run() -> None:
        nonlocal state
        with jax.set_mesh(mesh), trainer.logical_axis_rules(rules):
            state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    # Only floats are parameters: the state also holds counters and PRNG keys.
    leaves = jax.tree_util.tree_leaves_with_path(state)
    model_leaves = [leaf for path, leaf in leaves if "model" in jax.tree_util.keystr(path)]
    parameters = sum(leaf.size for leaf in model_leaves if jnp.issubdtype(leaf.dtype, jnp.floating))
    return Prepared(run=run, tokens=rows.tokens, facts={"parameters": int(parameters), "rows": "full"})


def versions() -> dict[str, str]:
    """Return the versions of the packages."""
    return {name: metadata.version(name) for name in PACKAGES}


if __name__ == "__main__":
    serve(prepare, versions)

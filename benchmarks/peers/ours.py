"""t2t: the training step of `t2t train`, decoding with `t2t.decode.generate`, and data from `t2t.data.pipeline.batches`."""

from __future__ import annotations

import dataclasses
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import t2t
from benchmarks import batches
from benchmarks.cases import BEAM, CLIP_NORM, RATE, TOP_K, Case
from benchmarks.protocol import Answer, Prepared, serve
from t2t.data.config import Data
from t2t.decode import Beam, Decoding, Greedy, Sampling, generate
from t2t.decode import prompt as prompt_batch
from t2t.export.huggingface import write_huggingface
from t2t.models import bert, gpt, llama, t5
from t2t.models.families import exportable
from t2t.nn.model import ModelConfig
from t2t.objectives import CrossEntropy
from t2t.optim import Adafactor, AdamW, Constant, OptimizerConfig
from t2t.plan import flops
from t2t.train.experiment import Experiment
from t2t.train.program import Program
from t2t.types import Batch, Tokens
from t2t.vocabularies import Bytes

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def config(case: Case) -> ModelConfig:
    """Return the model configuration of the case."""
    sizes = case.sizes
    common: dict[str, Any] = {
        "num_layers": sizes.num_layers,
        "d_model": sizes.d_model,
        "num_heads": sizes.num_heads,
        "d_ff": case.d_ff,
    }
    common |= {"vocab_size": sizes.vocab_size, "dropout": 0.0, "unroll": sizes.num_layers}
    if case.model == "t5":
        return t5.t5(**common)
    if case.model == "bert":
        return bert.bert(max_length=sizes.positions, **common)
    if case.model == "llama":
        return llama.llama(max_length=sizes.positions, **common)
    if case.model == "gpt2":
        return gpt.gpt(max_length=sizes.positions, **common)
    assert case.model == "decoder", case.model
    stack: dict[str, Any] = {
        "positions": "relative",
        "norm": "rms",
        "norm_epsilon": 1e-6,
        "gated": True,
        "biases": False,
    }
    stack |= {"scaled_attention": False, "init": "fan_in", "mlp_dropout": True, "final_dropout": True}
    return gpt.gpt(**common, **stack, tied=True, scaled_head=True, embedding_std=1.0)


def optimizer(case: Case) -> OptimizerConfig:
    """Return the optimizer of the case, with a constant learning rate."""
    if case.optimizer == "adafactor":
        return Adafactor(schedule=Constant(peak=1e-3))
    return AdamW(schedule=Constant(peak=RATE), b1=0.9, b2=0.95, weight_decay=0.1, clip_norm=CLIP_NORM)


def tokens(rows: batches.Rows, ids: np.ndarray) -> Tokens:
    """Return `ids` with the positions and segments of the rows."""
    return Tokens(ids=ids, positions=rows.positions, segments=rows.segments)


def batch(case: Case, *, packed: bool) -> Batch:
    """Return the training batch of the case. `packed` only applies to encoder-decoders."""
    if case.model == "t5":
        inputs, targets = batches.pair(case, packed=packed)
        ones = np.ones(targets.ids.shape, np.float32)
        return Batch(
            encoder=tokens(inputs, inputs.ids),
            decoder=tokens(targets, targets.shifted),
            targets=targets.ids,
            weights=ones,
        )
    rows = batches.rows(case, case.length)
    if case.model == "bert":
        ids, weights = batches.masked(case, rows)
        types = np.zeros_like(ids)
        encoder = dataclasses.replace(tokens(rows, ids), types=types)
        return Batch(encoder=encoder, decoder=None, targets=rows.ids, weights=weights)
    weights = np.ones(rows.ids.shape, np.float32)
    if case.model == "decoder":
        return Batch(encoder=None, decoder=tokens(rows, rows.shifted), targets=rows.ids, weights=weights)
    weights[:, -1] = 0.0
    next_ids = np.roll(rows.ids, -1, axis=1)
    return Batch(encoder=None, decoder=tokens(rows, rows.ids), targets=next_ids, weights=weights)


def experiment(case: Case) -> Experiment:
    """Return the experiment of the case. Its data is never read."""
    model, sizes = config(case), case.sizes
    inputs, targets = (sizes.inputs, sizes.targets) if case.model == "t5" else (1, case.length - 1)
    if model.kind == "encoder":
        inputs, targets = case.length, case.length
    data = Data(task="benchmark", inputs_length=inputs, targets_length=targets, batch_size=sizes.rows)
    return Experiment(model=model, data=data, optimizer=optimizer(case))


def train(case: Case) -> Prepared:
    """Prepare a training step, with the guard, the metrics and the shardings of real training."""
    wanted = experiment(case)
    program = Program.of(wanted, wanted.mesh.build())
    state, step = program.create(0), program.step()
    arrays = jax.device_put(batch(case, packed=True), program.batch_sharding())

    def run() -> None:
        nonlocal state
        state, metrics = step(state, arrays)
        jax.block_until_ready((state, metrics))

    streams = [stream.ids.size for stream in (arrays.encoder, arrays.decoder) if stream is not None]
    facts: dict[str, Any] = {"parameters": _size(state.params), "flops": flops.count(program).model}
    facts["rows"] = "packed" if case.model == "t5" else "full"
    return Prepared(run=run, tokens=sum(streams), facts=facts)


def decode(case: Case) -> Prepared:
    """Prepare the decoding of a batch of prompts. The first run compiles."""
    model, sizes = config(case).build(), case.sizes
    params = jax.jit(model.init)(jax.random.key(0))
    how: Decoding = {"greedy": Greedy(), "sampling": Sampling(top_k=TOP_K), "beam": Beam(size=BEAM)}[case.decoding]
    if case.model == "t5":
        inputs = batches.rows(case, sizes.inputs, count=case.rows)
        start = batches.rows(case, 1, count=case.rows)
        prompts = prompt_batch(encoder=tokens(inputs, inputs.ids), decoder=tokens(start, start.shifted))
    else:
        start = batches.rows(case, sizes.prompt, count=case.rows)
        prompts = prompt_batch(decoder=tokens(start, start.ids))
    prompts = jax.tree.map(jnp.asarray, prompts)
    key = jax.random.key(1) if case.decoding == "sampling" else None

    def run() -> np.ndarray:
        # No id is -1, so all rows have the full length.
        found = generate(model, params, prompts, how, length=sizes.new, eos_id=-1, pad_id=None, key=key)
        ids = np.asarray(found.ids)
        assert ids.shape == (case.rows, 1, sizes.new), ids.shape
        return ids

    return Prepared(run=run, tokens=case.rows * sizes.new, facts={"parameters": _size(params)})


def prepare(case: Case) -> Prepared:
    """Prepare a case."""
    if case.work == "train":
        return train(case)
    if case.work == "decode":
        return decode(case)
    if case.work == "layer":
        from benchmarks.peers.ours_layers import layer

        return layer(case)
    from benchmarks.peers.ours_data import data

    return data(case)


def check(subject: dict[str, Any], *, directory: str) -> Answer:
    """Write a model with random parameters in the format of transformers. Return its loss on unpacked rows."""
    case = Case(**subject)
    if case.work == "layer":
        from benchmarks.peers import ours_layers

        return ours_layers.check(case, directory)
    wanted = experiment(case)
    model = wanted.model.build()
    params = jax.jit(model.init)(jax.random.key(0))
    _, options, tensors = exportable(wanted.model)
    write_huggingface(params, options, tensors, Bytes(), Path(directory), kind=wanted.model.kind, overwrite=True)
    sums = jax.jit(lambda params, batch: CrossEntropy().loss(model, params, batch))(params, batch(case, packed=False))
    return {"loss": float(sums.loss / sums.weight), "parameters": _size(params)}


def ceilings(subject: None) -> Answer:
    """Return the limits of the machine: FLOP/s of matrix products by dtype, and bytes/s of copies. Return {} if they cannot be measured."""
    try:
        from t2t.launch.bench.ceilings import measure
    except ImportError:
        return {}
    found = measure(dtypes=("float32",))
    return {"matmul": dict(found.matmul), "copy": found.copy}


def versions() -> dict[str, str]:
    """Return the versions of the packages."""
    return {"t2t": t2t.__version__, **{name: metadata.version(name) for name in PACKAGES}}


def _size(tree: Any) -> int:
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))


if __name__ == "__main__":
    serve(prepare, versions, {"check": check, "ceilings": ceilings})

"""T5X from a checkout: the networks of its examples, the compiled step of its Trainer, its decoding; and the preprocessors of the t5 package on SeqIO."""

from __future__ import annotations

import argparse
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import batches
from benchmarks.cases import BEAM, RATE, TOP_K, Case
from benchmarks.peers.t5x_import import load, stand_ins
from benchmarks.protocol import Prepared, Unsupported, serve

CHECKOUT = Path()
PACKAGES = ("jax", "jaxlib", "flax", "optax", "clu", "seqio", "tensorflow", "t5")


def network(case: Case) -> Any:
    """Return the Linen module of the case, with dropout 0."""
    sizes = case.sizes
    common: dict[str, Any] = {"vocab_size": sizes.vocab_size, "emb_dim": sizes.d_model, "num_heads": sizes.num_heads}
    common |= {"head_dim": sizes.head_dim, "mlp_dim": case.d_ff, "mlp_activations": ("gelu", "linear")}
    common |= {"dropout_rate": 0.0, "dtype": jnp.float32}
    if case.model == "t5":
        found = load(CHECKOUT, "examples.t5.network")
        layers = {"num_encoder_layers": sizes.num_layers, "num_decoder_layers": sizes.num_layers}
        return found.Transformer(config=found.T5Config(**common, **layers, logits_via_embedding=False))
    if case.model == "decoder":
        found = load(CHECKOUT, "examples.decoder_only.network")
        config = found.TransformerConfig(**common, num_layers=sizes.num_layers, logits_via_embedding=True)
        return found.DecoderWrapper(config=config)
    raise Unsupported(f"T5X's examples have no {case.model}")


def model(case: Case) -> Any:
    """Return the T5X model of the case, with its optimizer and decoding function."""
    import seqio

    models, decoding = load(CHECKOUT, "models"), load(CHECKOUT, "decoding")
    vocabulary = seqio.PassThroughVocabulary(case.sizes.vocab_size)
    search = decoding.beam_search if case.decoding == "beam" else decoding.temperature_sample
    if case.optimizer == "adamw":
        optimizer = load(CHECKOUT, "optimizers").adamw(RATE, b1=0.9, b2=0.95, weight_decay=0.1)
    else:
        adafactor = load(CHECKOUT, "adafactor")
        rules = adafactor.standard_logical_factor_rules()
        optimizer = adafactor.Adafactor(decay_rate=0.8, step_offset=0, logical_factor_rules=rules)
    common = {"module": network(case), "optimizer_def": optimizer, "decode_fn": search, "z_loss": 0.0}
    if case.model == "t5":
        return models.EncoderDecoderModel(input_vocabulary=vocabulary, output_vocabulary=vocabulary, **common)
    return models.DecoderOnlyModel(vocabulary=vocabulary, **common)


def batch(case: Case) -> dict[str, np.ndarray]:
    """Return the training batch of the case with SeqIO's feature names. Encoder-decoders get the same packed rows as our peer."""
    if case.model == "t5":
        inputs, targets = batches.pair(case, packed=True)
        encoder = {
            "encoder_input_tokens": inputs.ids,
            "encoder_segment_ids": inputs.segments,
            "encoder_positions": inputs.positions,
        }
    else:
        targets, encoder = batches.rows(case, case.length), {}
    return {
        **encoder,
        "decoder_input_tokens": targets.shifted,
        "decoder_target_tokens": targets.ids,
        "decoder_loss_weights": np.ones(targets.ids.shape, np.int32),
        "decoder_segment_ids": targets.segments,
        "decoder_positions": targets.positions,
    }


def train(case: Case) -> Prepared:
    """Prepare the step of the Trainer, compiled like in `t5x.train`."""
    partitioning, utils, trainer = (load(CHECKOUT, name) for name in ("partitioning", "utils", "trainer"))
    network, arrays = model(case), batch(case)
    partitioner = partitioning.PjitPartitioner(
        num_partitions=1, logical_axis_rules=partitioning.standard_logical_axis_rules()
    )
    initializer = utils.TrainStateInitializer(
        optimizer_def=network.optimizer_def,
        init_fn=network.get_initial_variables,
        input_shapes={name: array.shape for name, array in arrays.items()},
        input_types={name: array.dtype for name, array in arrays.items()},
        partitioner=partitioner,
    )
    initial = initializer.from_scratch(jax.random.PRNGKey(0))
    t5x_trainer = trainer.Trainer(
        model=network,
        train_state=initial,
        partitioner=partitioner,
        eval_names=[],
        summary_dir=None,
        train_state_axes=initializer.train_state_axes,
        rng=jax.random.PRNGKey(1),
        learning_rate_fn=utils.create_learning_rate_scheduler(
            factors="constant", base_learning_rate=1e-3, warmup_steps=1000
        ),
        num_microbatches=None,
    )
    t5x_trainer.compile_train(arrays)
    step, state = t5x_trainer._compiled_train_step, initial
    streams = [name for name in ("encoder_input_tokens", "decoder_target_tokens") if name in arrays]

    def run() -> None:
        nonlocal state
        state, metrics = step(state, arrays)
        jax.block_until_ready((state, metrics))

    facts = {"parameters": _size(state.params), "rows": "packed" if case.model == "t5" else "full"}
    return Prepared(run=run, tokens=sum(arrays[name].size for name in streams), facts=facts)


def decode(case: Case) -> Prepared:
    """Prepare the decoding of a batch of prompts: `predict_batch_with_aux`, jitted like in `t5x.utils`. Decoder-only prompts start with T5X's token 0."""
    if case.model == "decoder" and case.decoding == "beam":
        raise Unsupported(
            "beam search of T5X's decoder-only model returns fewer tokens than requested; its configurations use sampling"
        )
    network, sizes = model(case), case.sizes
    if case.model == "t5":
        inputs = batches.rows(case, sizes.inputs, count=case.rows).ids
        arrays = {"encoder_input_tokens": inputs, "decoder_input_tokens": np.zeros((case.rows, sizes.new), np.int32)}
    else:
        prompts = batches.rows(case, sizes.prompt, count=case.rows).ids
        ids = np.zeros((case.rows, sizes.prompt + sizes.new), np.int32)
        ids[:, 1 : sizes.prompt + 1] = prompts
        prefix = np.zeros_like(ids)
        prefix[:, : sizes.prompt + 1] = 1
        arrays = {"decoder_input_tokens": ids, "decoder_causal_attention": prefix}
    shapes = {name: array.shape for name, array in arrays.items()}
    params = jax.jit(lambda key: network.get_initial_variables(key, shapes)["params"])(jax.random.PRNGKey(0))
    # No id is -1, so all rows have the full length.
    how: dict[str, Any] = {"eos_id": -1}
    if case.decoding != "beam":
        how |= {"temperature": 1.0, "topk": TOP_K if case.decoding == "sampling" else 1}
    count = BEAM if case.decoding == "beam" else 1

    @jax.jit
    def predict(params: Any, batch: Any, key: Any) -> Any:
        return network.predict_batch_with_aux(params, batch, rng=key, decoder_params=dict(how), num_decodes=count)

    key = jax.random.PRNGKey(1)

    def run() -> np.ndarray:
        ids = np.asarray(predict(params, arrays, key)[0])
        assert (ids[:, : sizes.new] != 0).sum() >= ids.shape[0] * sizes.new * 0.9, "ended early"
        return ids

    return Prepared(run=run, tokens=case.rows * sizes.new, facts={"parameters": _size(params)})


def prepare(case: Case) -> Prepared:
    """Prepare a case."""
    if case.work == "train":
        return train(case)
    if case.work == "decode":
        return decode(case)
    if case.work == "layer":
        raise Unsupported("only layers of transformers are timed alone")
    from benchmarks.peers.t5x_data import data

    return data(case)


def versions() -> dict[str, str]:
    """Return the versions of the packages, and the commit of the T5X checkout."""
    head = CHECKOUT / ".git" / "HEAD"
    version = "a checkout"
    if head.exists():
        reference = head.read_text().strip()
        place = CHECKOUT / ".git" / reference.removeprefix("ref: ")
        commit = place.read_text().strip() if reference.startswith("ref: ") and place.exists() else reference
        version = commit[:12]
    return {"t5x": version, **{name: metadata.version(name) for name in PACKAGES}}


def _size(tree: Any) -> int:
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path, required=True)
    CHECKOUT = parser.parse_args().checkout
    stand_ins()
    serve(prepare, versions)

"""T5X from a checkout: its examples' networks, its Trainer's compiled step, its Adafactor, its decoding; and the t5 package's preprocessors on SeqIO."""

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
    """Return the case's Linen module, dropout 0."""
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
    """Return the case's model with its optimizer and way of decoding."""
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
    """Return the case's training batch under SeqIO's names: an encoder-decoder's is packed, the same that ours gets."""
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
    """Make the Trainer's step ready, compiled as `t5x.train` does."""
    partitioning, utils, trainer = (load(CHECKOUT, name) for name in ("partitioning", "utils", "trainer"))
    made, given = model(case), batch(case)
    partitioner = partitioning.PjitPartitioner(
        num_partitions=1, logical_axis_rules=partitioning.standard_logical_axis_rules()
    )
    initializer = utils.TrainStateInitializer(
        optimizer_def=made.optimizer_def,
        init_fn=made.get_initial_variables,
        input_shapes={name: array.shape for name, array in given.items()},
        input_types={name: array.dtype for name, array in given.items()},
        partitioner=partitioner,
    )
    begin = initializer.from_scratch(jax.random.PRNGKey(0))
    own = trainer.Trainer(
        model=made,
        train_state=begin,
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
    own.compile_train(given)
    step, state = own._compiled_train_step, begin
    streams = [name for name in ("encoder_input_tokens", "decoder_target_tokens") if name in given]

    def run() -> None:
        nonlocal state
        state, metrics = step(state, given)
        jax.block_until_ready((state, metrics))

    facts = {"parameters": _size(state.params), "rows": "packed" if case.model == "t5" else "full"}
    return Prepared(run=run, tokens=sum(given[name].size for name in streams), facts=facts)


def decode(case: Case) -> Prepared:
    """Make a batch of prompts ready: `predict_batch_with_aux`, jitted as `t5x.utils` does. A decoder's prompt has the 0 that T5X begins with before it."""
    if case.model == "decoder" and case.decoding == "beam":
        raise Unsupported(
            "T5X's decoder-only model gives back fewer tokens than asked for from beam search; its configurations sample"
        )
    made, sizes = model(case), case.sizes
    if case.model == "t5":
        inputs = batches.rows(case, sizes.inputs, count=case.rows).ids
        given = {"encoder_input_tokens": inputs, "decoder_input_tokens": np.zeros((case.rows, sizes.new), np.int32)}
    else:
        words = batches.rows(case, sizes.prompt, count=case.rows).ids
        ids = np.zeros((case.rows, sizes.prompt + sizes.new), np.int32)
        ids[:, 1 : sizes.prompt + 1] = words
        seen = np.zeros_like(ids)
        seen[:, : sizes.prompt + 1] = 1
        given = {"decoder_input_tokens": ids, "decoder_causal_attention": seen}
    shapes = {name: array.shape for name, array in given.items()}
    params = jax.jit(lambda key: made.get_initial_variables(key, shapes)["params"])(jax.random.PRNGKey(0))
    # No id is -1: nothing ends before its length.
    how: dict[str, Any] = {"eos_id": -1}
    if case.decoding != "beam":
        how |= {"temperature": 1.0, "topk": TOP_K if case.decoding == "sampling" else 1}
    count = BEAM if case.decoding == "beam" else 1

    @jax.jit
    def predict(params: Any, batch: Any, key: Any) -> Any:
        return made.predict_batch_with_aux(params, batch, rng=key, decoder_params=dict(how), num_decodes=count)

    key = jax.random.PRNGKey(1)

    def run() -> np.ndarray:
        ids = np.asarray(predict(params, given, key)[0])
        assert (ids[:, : sizes.new] != 0).sum() >= ids.shape[0] * sizes.new * 0.9, "ended early"
        return ids

    return Prepared(run=run, tokens=case.rows * sizes.new, facts={"parameters": _size(params)})


def prepare(case: Case) -> Prepared:
    """Make a case ready."""
    if case.work == "train":
        return train(case)
    if case.work == "decode":
        return decode(case)
    from benchmarks.peers.t5x_data import data

    return data(case)


def versions() -> dict[str, str]:
    """Return the versions of what is measured: of the checkout, the last commit's."""
    head = CHECKOUT / ".git" / "HEAD"
    said = {"t5x": "a checkout"}
    if head.exists():
        reference = head.read_text().strip()
        place = CHECKOUT / ".git" / reference.removeprefix("ref: ")
        commit = place.read_text().strip() if reference.startswith("ref: ") and place.exists() else reference
        said = {"t5x": commit[:12]}
    return {**said, **{name: metadata.version(name) for name in PACKAGES}}


def _size(tree: Any) -> int:
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path, required=True)
    CHECKOUT = parser.parse_args().checkout
    stand_ins()
    serve(prepare, versions)

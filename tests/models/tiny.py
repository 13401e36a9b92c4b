"""Small models of each architecture, and batches for them."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from t2t.models import TransformerConfig, bart, bert, deberta, deepseek, gpt, llama, longt5, mamba, pegasus, t5, t5gemma
from t2t.nn.attention.latent import Latent
from t2t.nn.convolution import ConvolutionConfig
from t2t.nn.disentangled import Disentangled
from t2t.nn.model import ParamSpec
from t2t.nn.moe.router import Router
from t2t.types import Batch, Tokens

VOCAB = 40


def _options() -> dict[str, int | bool] | None:
    """Return compiler options for minimal optimization: these tests compile much and compute little."""
    for options in ({"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}, None):
        try:
            jax.jit(lambda x: x + 1, compiler_options=options)(1.0)
        except jax.errors.JaxRuntimeError:
            continue
        return options
    raise AssertionError("no compiler")


quick_jit = functools.partial(jax.jit, compiler_options=_options())
SIZES = {"num_layers": 2, "d_model": 16, "num_heads": 2, "d_ff": 24, "vocab_size": VOCAB, "dropout": 0.0}


def config(name: str, **overrides) -> TransformerConfig:
    """Return a two-layer model: "t5", "t5-1.0", "t5-shared", "longt5", "gpt", "gpt-1", "prefix", "llama", "moe", "deepseek", "merged", "mamba", "mamba2", "bart", "pegasus", "bert" or
    "deberta"."""
    sizes = {**SIZES, **overrides}
    if name.startswith("t5"):
        version, shared = "1.0" if name == "t5-1.0" else "1.1", name == "t5-shared"
        return t5.t5(version=version, buckets=8, max_distance=12, shared=shared, **sizes)
    if name == "longt5":
        return longt5.longt5(buckets=8, max_distance=12, window=4, global_block=3, **sizes)
    if name == "gpt-1":
        return gpt.gpt(norm_place="post", final_norm=False, max_length=24, init_std=0.2, **sizes)
    if name in ("gpt", "prefix"):
        mask = "prefix" if name == "prefix" else "causal"
        return gpt.gpt(max_length=24, mask=mask, init_std=0.2, embedding_std=0.5, **sizes)
    if name == "llama":
        return llama.llama(max_length=24, init_std=0.2, embedding_std=0.5, **sizes)
    if name == "moe":
        experts = {"num_experts": 4, "expert_d_ff": 12, "shared_expert_d_ff": 8}
        return llama.llama(**{"max_length": 24, "init_std": 0.2, "embedding_std": 0.5, **experts, **sizes})
    if name == "deepseek":
        router = Router(scores="sigmoid", scale=2.0, groups=2, groups_per_token=1, bias_rate=0.01, balance_loss=0.0)
        own = {"num_experts": 4, "experts_per_token": 2, "expert_d_ff": 12, "shared_expert_d_ff": 8, "dense_layers": 1}
        own |= {"head_dim": 6, "latent": Latent(rank=8, query_rank=10, rotary_dim=4, value_dim=5), "router": router}
        return deepseek.deepseek(**{"max_length": 24, "init_std": 0.2, "embedding_std": 0.5, **own, **sizes})
    if name == "merged":
        decoder = llama.llama(**{"qk_norm": True, "window": 3, "max_length": 24, **sizes})
        return dataclasses.replace(t5gemma.encoder_decoder_of(decoder), merged_attention=True)
    if name in ("mamba", "mamba2"):
        sizes = {size: value for size, value in sizes.items() if size not in ("num_heads", "d_ff")}
        sizes = {"init_std": 0.2, "embedding_std": 0.5, **sizes}
        if name == "mamba":
            return mamba.mamba(**{"mixer": {"chunk": 4, "state_size": 6}, **sizes})
        return mamba.mamba2(**{"head_dim": 8, "mixer": {"chunk": 4, "state_size": 6, "groups": 2}, **sizes})
    if name == "bart":
        return bart.bart(max_length=24, head_bias=True, init_std=0.2, embedding_std=0.5, position_std=0.5, **sizes)
    if name == "pegasus":
        return pegasus.pegasus(max_length=24, init_std=0.2, embedding_std=0.5, **sizes)
    if name == "deberta":
        sizes = {"disentangled": Disentangled(buckets=4, max_distance=9), **sizes}
        return deberta.deberta(max_length=24, init_std=0.2, convolution=ConvolutionConfig(), **sizes)
    assert name == "bert", name
    return bert.bert(max_length=24, init_std=0.2, **sizes)


@functools.cache
def params_of(config: TransformerConfig):
    """Return the model and random parameters that all affect the logits, including those that are initialized to zero or one.

    NumPy draws them, so nothing is compiled.
    """
    model = config.build()
    random = np.random.default_rng(0)

    def draw(spec: ParamSpec) -> jax.Array:
        single = len(spec.shape) - ("layers" in spec.axes) == 1
        deviation = 0.1 if single or "vocab" not in spec.axes[:1] else 1.0
        if not single and spec.axes[-2] not in ("vocab", "positions", "types", "buckets"):
            deviation = spec.shape[-2] ** -0.5
        value = deviation * random.normal(size=spec.shape)
        return jnp.asarray(value, jnp.float32)

    params = jax.tree.map(draw, model.specs, is_leaf=lambda spec: isinstance(spec, ParamSpec))
    scale = lambda path, x: x + 1.0 if path[-1].key == "scale" else x  # noqa: E731
    return model, jax.tree_util.tree_map_with_path(scale, params)


@functools.cache
def logits_of(config: TransformerConfig):
    """Return a compiled function (batch) -> logits with the model and parameters of `params_of(config)`."""
    model, params = params_of(config)
    return functools.partial(quick_jit(model.logits), params)


def moved_steps(model, params, start, move, tokens, parents) -> np.ndarray:
    """Return the logits of steps of decoding, each after a move of rows. A step is compiled as the first and as a later one, not for each of its tokens.

    start: (params) -> cache. move: `Model.select` or `Model.reorder`. tokens: [steps, rows]. parents: the rows of the cache before each later step.
    """
    first = quick_jit(lambda params, ids: model.stepper(params)(start(params), ids))
    later = quick_jit(lambda params, cache, rows, ids: model.stepper(params)(move(cache, rows), ids))
    logits, cache = first(params, tokens[0])
    found = [logits]
    for own_rows, ids in zip(parents, tokens[1:], strict=True):
        logits, cache = later(params, cache, own_rows, ids)
        found.append(logits)
    return np.asarray(found)


def row(examples: list[np.ndarray], length: int, prefixes: list[int] | None = None) -> Tokens:
    """Return one row with packed examples and padding. The first `prefixes` tokens of each example are marked as prefix."""
    arrays = {name: np.zeros((1, length), np.int32) for name in ("ids", "positions", "segments", "types", "prefix")}
    at = 0
    for number, ids in enumerate(examples):
        place = slice(at, at + len(ids))
        arrays["ids"][0, place] = ids
        arrays["positions"][0, place] = np.arange(len(ids))
        arrays["segments"][0, place] = number + 1
        arrays["types"][0, place] = np.arange(len(ids)) % 3 == 1
        if prefixes is not None:
            arrays["prefix"][0, at : at + prefixes[number]] = 1
        at += len(ids)
    if prefixes is None:
        arrays["prefix"] = None
    return Tokens(**arrays)


def rows(parts: list[Tokens]) -> Tokens:
    """Concatenate rows into a batch."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def batch(kind: str, encoder: Tokens | None, decoder: Tokens | None) -> Batch:
    """Return a batch for a kind of model, with its own ids as targets."""
    own = encoder if kind == "encoder" else decoder
    return Batch(
        encoder=None if kind == "decoder" else encoder,
        decoder=None if kind == "encoder" else decoder,
        targets=own.ids,
        weights=(own.segments > 0).astype(np.float32),
    )


def some_batch(kind: str, *, seed: int = 0, count: int = 2, length: int = 8, prefix: int | None = None) -> Batch:
    """Return a batch of random unpacked rows without padding."""
    random = np.random.default_rng(seed)

    def tokens(length: int) -> Tokens:
        prefixes = None if prefix is None else [prefix]
        return rows([row([random.integers(1, VOCAB, length)], length, prefixes) for _ in range(count)])

    return batch(kind, tokens(length + 2) if kind != "encoder" else tokens(length), tokens(length))


def loss(model, params, batch, **options):
    """Return the mean cross entropy, which depends on every parameter."""
    logits = model.logits(params, batch, **options)
    scores = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(scores, jnp.asarray(batch.targets)[..., None], axis=-1)[..., 0]
    return -jnp.sum(picked * batch.weights) / jnp.sum(batch.weights)


def with_ids(batch: Batch, side: str, column: int, value: int) -> Batch:
    """Return the batch with one column of ids replaced."""
    tokens = getattr(batch, side)
    ids = np.array(tokens.ids)
    ids[:, column] = value
    return dataclasses.replace(batch, **{side: dataclasses.replace(tokens, ids=ids)})

"""NeoBERT in NumPy, and its published files at a smaller size with random weights.

`transformers` has no NeoBERT. This is a second implementation after the paper (Le Breton et al. 2025, https://arxiv.org/abs/2502.19587, section 3.1): rotary
positions as complex numbers, RMS norms before the sublayers, SwiGLU, no biases. The layout of the tensors is that of the published file: the
rows of `qkv.weight` are those of the first head's query, key and value, then of the second head's, ..., and a pair of adjacent coordinates is one complex number.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WIDTH, HEADS, LAYERS, INNER, VOCAB = 24, 3, 2, 40, 96
EPSILON = 1e-3
LABELS = ("no", "yes", "perhaps")
CONFIG = {
    "architectures": ["NeoBERTLMHead"],
    "auto_map": {
        "AutoConfig": "model.NeoBERTConfig",
        "AutoModel": "model.NeoBERT",
        "AutoModelForMaskedLM": "model.NeoBERTLMHead",
        "AutoModelForSequenceClassification": "model.NeoBERTForSequenceClassification",
    },
    "classifier_init_range": 0.02,
    "decoder_init_range": 0.02,
    "dim_head": 8,
    "embedding_init_range": 0.02,
    "hidden_size": WIDTH,
    "intermediate_size": 58,  # two thirds are 38, the next multiple of 8 is 40
    "kwargs": {"classifier_init_range": 0.02, "trust_remote_code": True},
    "max_length": 4096,
    "model_type": "neobert",
    "norm_eps": EPSILON,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": 0,
    "pretrained_model_name_or_path": "google-bert/bert-base-uncased",
    "torch_dtype": "float32",
    "transformers_version": "4.48.2",
    "trust_remote_code": True,
    "vocab_size": VOCAB,
}
"""config.json of chandar-lab/NeoBERT, with smaller sizes and a larger epsilon."""

Tensors = dict[str, np.ndarray]


def tensors(head: str = "tokens") -> Tensors:
    """Return random tensors of a model with the head "tokens" or "label", or without a head (""). All affect the output."""
    shapes = {"model.encoder.weight": (VOCAB, WIDTH), "model.layer_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        place = f"model.transformer_encoder.{layer}"
        shapes |= {
            f"{place}.qkv.weight": (3 * WIDTH, WIDTH),
            f"{place}.wo.weight": (WIDTH, WIDTH),
            f"{place}.ffn.w12.weight": (2 * INNER, WIDTH),
            f"{place}.ffn.w3.weight": (WIDTH, INNER),
            f"{place}.attention_norm.weight": (WIDTH,),
            f"{place}.ffn_norm.weight": (WIDTH,),
        }
    if head == "tokens":
        shapes |= {"decoder.weight": (VOCAB, WIDTH), "decoder.bias": (VOCAB,)}
    if head == "label":
        shapes |= {"dense.weight": (WIDTH, WIDTH), "dense.bias": (WIDTH,)}
        shapes |= {"classifier.weight": (len(LABELS), WIDTH), "classifier.bias": (len(LABELS),)}
    random = np.random.default_rng(0)

    def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
        value = random.standard_normal(shape, np.float32)
        if len(shape) == 1:
            return value * np.float32(0.2) + np.float32("norm" in name)
        return value * np.float32(0.5 if name == "model.encoder.weight" else shape[-1] ** -0.5)

    return {name: drawn(name, shape) for name, shape in shapes.items()}


def write(directory: Path, head: str = "tokens", **options: object) -> Tensors:
    """Write config.json with changed `options`, and the tensors, which are returned."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({**CONFIG, **options}))
    made = tensors(head)
    save_file(made, directory / "model.safetensors")
    return made


def hidden(tensors: Tensors, ids: np.ndarray) -> np.ndarray:
    """Return the outputs [L, D] of the encoder for one text without padding, in float64."""
    exact = {name: value.astype(np.float64) for name, value in tensors.items()}
    size = WIDTH // HEADS
    frequencies = 10_000.0 ** (-np.arange(0, size, 2) / size)
    turns = np.exp(1j * np.arange(len(ids))[:, None] * frequencies)[:, None]  # [L, 1, pairs]

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + EPSILON) * exact[name]

    def turned(x: np.ndarray) -> np.ndarray:
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        product = (pairs[..., 0] + 1j * pairs[..., 1]) * turns
        return np.stack([product.real, product.imag], axis=-1).reshape(x.shape)

    x = exact["model.encoder.weight"][ids]
    for layer in range(LAYERS):
        place = f"model.transformer_encoder.{layer}"
        joint = normed(x, f"{place}.attention_norm.weight") @ exact[f"{place}.qkv.weight"].T
        query, key, value = np.split(joint.reshape(len(ids), HEADS, 3 * size), 3, axis=-1)
        scores = np.einsum("qhd,khd->hqk", turned(query), turned(key)) / np.sqrt(size)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", shares, value).reshape(len(ids), WIDTH)
        x = x + mixed @ exact[f"{place}.wo.weight"].T
        gate, up = np.split(normed(x, f"{place}.ffn_norm.weight") @ exact[f"{place}.ffn.w12.weight"].T, 2, axis=-1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ exact[f"{place}.ffn.w3.weight"].T
    return normed(x, "model.layer_norm.weight")


def logits(tensors: Tensors, ids: np.ndarray) -> np.ndarray:
    """Return the logits of one text: of the vocabulary at each position [L, V], or of the labels [labels]."""
    x = hidden(tensors, ids)
    if "decoder.weight" in tensors:
        return x @ tensors["decoder.weight"].T + tensors["decoder.bias"]
    if "classifier.weight" in tensors:
        pooled = np.tanh(x[0] @ tensors["dense.weight"].T + tensors["dense.bias"])
        return pooled @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    return x @ tensors["model.encoder.weight"].T

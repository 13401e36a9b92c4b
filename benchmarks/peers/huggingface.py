"""transformers on PyTorch: the model's loss, backward, torch's fused AdamW or transformers' Adafactor; `generate` with its cache."""

from __future__ import annotations

import argparse
from importlib import metadata
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks import batches
from benchmarks.cases import BEAM, CLIP_NORM, RATE, TOP_K, Case
from benchmarks.peers import huggingface_layers
from benchmarks.protocol import Answer, Prepared, Unsupported, serve

CLASSES = {
    "t5": ("T5Config", "T5ForConditionalGeneration"),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel"),
    "bert": ("BertConfig", "BertForMaskedLM"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
}
COMPILED = False


def options(case: Case) -> dict[str, Any]:
    """Return the config options of the case that differ from the defaults of its config class."""
    sizes = case.sizes
    if case.model == "t5":
        shape = {"d_model": sizes.d_model, "d_kv": sizes.head_dim, "d_ff": case.d_ff, "num_heads": sizes.num_heads}
        shape |= {
            "num_layers": sizes.num_layers,
            "num_decoder_layers": sizes.num_layers,
            "vocab_size": sizes.vocab_size,
        }
        return {
            **shape,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "dropout_rate": 0.0,
            "decoder_start_token_id": 0,
        }
    if case.model == "gpt2":
        rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        shape = {"n_embd": sizes.d_model, "n_layer": sizes.num_layers, "n_head": sizes.num_heads, "n_inner": case.d_ff}
        return {**rates, **shape, "vocab_size": sizes.vocab_size, "n_positions": sizes.positions}
    shape = {
        "hidden_size": sizes.d_model,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
    }
    shape |= {"intermediate_size": case.d_ff, "max_position_embeddings": sizes.positions}
    shape |= {"vocab_size": sizes.vocab_size}
    if case.model == "llama":
        return {**shape, "num_key_value_heads": sizes.num_heads, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
    return {**shape, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def model(case: Case) -> Any:
    """Return the model of the case with random weights. Raise Unsupported if transformers does not have the network."""
    if case.model not in CLASSES:
        raise Unsupported(f"transformers has no {case.model}")
    config, kind = (getattr(transformers, name) for name in CLASSES[case.model])
    network = kind(config(**options(case)))
    if case.model == "t5":
        # transformers 5 ties the head of T5 1.1 unless it has its own weights.
        network.lm_head.weight = torch.nn.Parameter(network.lm_head.weight.detach().clone())
        network.lm_head.weight.data.mul_(case.sizes.d_model**-0.5)
    return network.float()


def arguments(case: Case) -> tuple[dict[str, torch.Tensor], int]:
    """Return the arguments of the model, including labels, and the number of tokens. Without packing and padding, no mask is needed."""
    if case.model == "t5":
        inputs, targets = batches.pair(case, packed=False)
        arrays, tokens = {"input_ids": inputs.ids, "labels": targets.ids}, inputs.tokens + targets.tokens
    else:
        rows = batches.rows(case, case.length)
        arrays, tokens = {"input_ids": rows.ids, "labels": rows.ids}, rows.tokens
        if case.model == "bert":
            ids, weights = batches.masked(case, rows)
            arrays = {"input_ids": ids, "labels": np.where(weights > 0, rows.ids, -100)}
    return {name: torch.from_numpy(np.ascontiguousarray(ids)).long() for name, ids in arrays.items()}, tokens


def train(case: Case) -> Prepared:
    """Prepare a training step."""
    network = model(case).train()
    parameters = list(network.parameters())
    if case.optimizer == "adafactor":
        optimizer: Any = transformers.Adafactor(parameters, lr=1e-3, scale_parameter=True, relative_step=False)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batch, tokens = arguments(case)
    call = torch.compile(network) if COMPILED else network

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        call(**batch).loss.backward()
        if case.optimizer == "adamw":
            torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()

    return Prepared(run=run, tokens=tokens, facts={**_facts(network), "rows": "full"})


def decode(case: Case) -> Prepared:
    """Prepare the decoding of a batch of prompts."""
    network = model(case).eval()
    sizes = case.sizes
    ids = batches.rows(case, sizes.inputs if case.model == "t5" else sizes.prompt, count=case.rows).ids
    inputs = torch.from_numpy(ids).long()
    how = {"greedy": {}, "sampling": {"do_sample": True, "top_k": TOP_K}, "beam": {"num_beams": BEAM}}[case.decoding]
    # Without an end-of-text token, all rows have the full length.
    settings = {"do_sample": False, "max_new_tokens": sizes.new, "use_cache": True, "pad_token_id": 0, **how}
    network.generation_config = transformers.GenerationConfig(eos_token_id=None, decoder_start_token_id=0, **settings)
    network.config.eos_token_id = None
    before = 1 if case.model == "t5" else sizes.prompt

    def run() -> torch.Tensor:
        with torch.inference_mode():
            found = network.generate(input_ids=inputs, attention_mask=torch.ones_like(inputs))
        assert found.shape == (case.rows, before + sizes.new), found.shape
        return found

    return Prepared(run=run, tokens=case.rows * sizes.new, facts=_facts(network))


def prepare(case: Case) -> Prepared:
    """Prepare a case."""
    if case.work == "data":
        raise Unsupported("transformers has no span corruption")
    if case.work == "layer":
        if COMPILED:
            raise Unsupported("layers are only measured without torch.compile")
        return huggingface_layers.layer(case)
    if COMPILED and case.work == "decode":
        raise Unsupported("generate is only measured without torch.compile")
    return train(case) if case.work == "train" else decode(case)


def check(subject: dict[str, Any], *, directory: str) -> Answer:
    """Load the model that our peer wrote and return the loss on the same rows. Raise ValueError if its config differs from the timed config."""
    case = Case(**subject)
    if case.work == "layer":
        return huggingface_layers.check(case, directory)
    if case.model not in CLASSES:
        raise Unsupported(f"transformers has no {case.model}")
    loaded = getattr(transformers, CLASSES[case.model][1]).from_pretrained(directory).float().eval()
    timed = getattr(transformers, CLASSES[case.model][0])(**options(case))
    for name in options(case):
        wanted, found = getattr(timed, name), getattr(loaded.config, name)
        if wanted != found and name != "tie_word_embeddings":
            raise ValueError(f"config.{name} is {found!r} in {directory}, but {wanted!r} in the timed model")
    batch, _ = arguments(case)
    with torch.no_grad():
        loss = float(loaded(**batch).loss)
    return {"loss": loss, "parameters": _facts(loaded)["parameters"]}


def versions() -> dict[str, str]:
    """Return the versions of the packages."""
    return {"torch": torch.__version__, "transformers": metadata.version("transformers")}


def _facts(network: Any) -> dict[str, Any]:
    count = sum(parameter.numel() for parameter in network.parameters())
    return {"parameters": count, "attention": getattr(network.config, "_attn_implementation", None)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    chosen = parser.parse_args()
    COMPILED = chosen.compile
    torch.set_num_threads(chosen.threads)
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    serve(prepare, versions, {"check": check})

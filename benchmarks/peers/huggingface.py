"""transformers on PyTorch: the model's own loss, backward, torch's fused AdamW or transformers' Adafactor; `generate` with its cache."""

from __future__ import annotations

import argparse
from importlib import metadata
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks import batches
from benchmarks.cases import BEAM, CLIP_NORM, RATE, TOP_K, Case
from benchmarks.protocol import Answer, Prepared, Unsupported, serve

CLASSES = {
    "t5": ("T5Config", "T5ForConditionalGeneration"),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel"),
    "bert": ("BertConfig", "BertForMaskedLM"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
}
COMPILED = False


def options(case: Case) -> dict[str, Any]:
    """Return what the case's config differs in from its class's defaults."""
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
    """Return the case's model with random weights. Raises Unsupported for a network that transformers does not have."""
    if case.model not in CLASSES:
        raise Unsupported(f"transformers has no {case.model}")
    config, kind = (getattr(transformers, name) for name in CLASSES[case.model])
    made = kind(config(**options(case)))
    if case.model == "t5":
        # transformers 5 ties a T5 1.1's head unless there are weights for it.
        made.lm_head.weight = torch.nn.Parameter(made.lm_head.weight.detach().clone())
        made.lm_head.weight.data.mul_(case.sizes.d_model**-0.5)
    return made.float()


def arguments(case: Case) -> tuple[dict[str, torch.Tensor], int]:
    """Return what the model is called with, labels among it, and the number of tokens. There is no packing and no padding, and so no mask."""
    if case.model == "t5":
        inputs, targets = batches.pair(case, packed=False)
        given, tokens = {"input_ids": inputs.ids, "labels": targets.ids}, inputs.tokens + targets.tokens
    else:
        rows = batches.rows(case, case.length)
        given, tokens = {"input_ids": rows.ids, "labels": rows.ids}, rows.tokens
        if case.model == "bert":
            ids, weights = batches.masked(case, rows)
            given = {"input_ids": ids, "labels": np.where(weights > 0, rows.ids, -100)}
    return {name: torch.from_numpy(np.ascontiguousarray(ids)).long() for name, ids in given.items()}, tokens


def train(case: Case) -> Prepared:
    """Make a step ready."""
    made = model(case).train()
    parameters = list(made.parameters())
    if case.optimizer == "adafactor":
        optimizer: Any = transformers.Adafactor(parameters, lr=1e-3, scale_parameter=True, relative_step=False)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    given, tokens = arguments(case)
    call = torch.compile(made) if COMPILED else made

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        call(**given).loss.backward()
        if case.optimizer == "adamw":
            torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()

    return Prepared(run=run, tokens=tokens, facts={**_facts(made), "rows": "full"})


def decode(case: Case) -> Prepared:
    """Make a batch of prompts ready."""
    made = model(case).eval()
    sizes = case.sizes
    ids = batches.rows(case, sizes.inputs if case.model == "t5" else sizes.prompt, count=case.rows).ids
    given = torch.from_numpy(ids).long()
    how = {"greedy": {}, "sampling": {"do_sample": True, "top_k": TOP_K}, "beam": {"num_beams": BEAM}}[case.decoding]
    # Without an end of text nothing ends before its length.
    settings = {"do_sample": False, "max_new_tokens": sizes.new, "use_cache": True, "pad_token_id": 0, **how}
    made.generation_config = transformers.GenerationConfig(eos_token_id=None, decoder_start_token_id=0, **settings)
    made.config.eos_token_id = None
    before = 1 if case.model == "t5" else sizes.prompt

    def run() -> torch.Tensor:
        with torch.inference_mode():
            found = made.generate(input_ids=given, attention_mask=torch.ones_like(given))
        assert found.shape == (case.rows, before + sizes.new), found.shape
        return found

    return Prepared(run=run, tokens=case.rows * sizes.new, facts=_facts(made))


def prepare(case: Case) -> Prepared:
    """Make a case ready."""
    if case.work == "data":
        raise Unsupported("transformers makes no span corruption")
    if COMPILED and case.work == "decode":
        raise Unsupported("generate is measured without torch.compile alone")
    return train(case) if case.work == "train" else decode(case)


def check(subject: dict[str, Any], *, directory: str) -> Answer:
    """Load what ours wrote and return the loss on the same rows. Raises ValueError where its config is not the one that is timed."""
    case = Case(**subject)
    if case.model not in CLASSES:
        raise Unsupported(f"transformers has no {case.model}")
    loaded = getattr(transformers, CLASSES[case.model][1]).from_pretrained(directory).float().eval()
    timed = getattr(transformers, CLASSES[case.model][0])(**options(case))
    for name in options(case):
        wanted, found = getattr(timed, name), getattr(loaded.config, name)
        if wanted != found and name != "tie_word_embeddings":
            raise ValueError(f"config.{name} is {found!r} in {directory}, the model that is timed has {wanted!r}")
    given, _ = arguments(case)
    with torch.no_grad():
        loss = float(loaded(**given).loss)
    return {"loss": loss, "parameters": _facts(loaded)["parameters"]}


def versions() -> dict[str, str]:
    """Return the versions of what is measured."""
    return {"torch": torch.__version__, "transformers": metadata.version("transformers")}


def _facts(made: Any) -> dict[str, Any]:
    count = sum(parameter.numel() for parameter in made.parameters())
    return {"parameters": count, "attention": getattr(made.config, "_attn_implementation", None)}


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

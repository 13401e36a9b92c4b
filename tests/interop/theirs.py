"""The models of the cases in `transformers` on PyTorch. Needs both packages: see `make test-interop`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers

from tests.interop.case import DETECTOR, PROBLEMS, Case
from tests.interop.cases import inputs, weight
from tests.interop.ours import EOS, NEW, values

_RATES = ("dropout", "drop")


def config(case: Case) -> Any:
    """Return the config of a case, without dropout."""
    made = getattr(transformers, case.config)(**case.options, eos_token_id=EOS, bos_token_id=2)
    for name in list(vars(made)):
        if any(part in name for part in _RATES) and isinstance(getattr(made, name), int | float):
            setattr(made, name, 0.0)
    if case.kind == "encoder_decoder":
        made.decoder_start_token_id = 0
    return made


def model(case: Case) -> Any:
    """Return the model of a case with the weights of `cases.weight`, in float32."""
    made = getattr(transformers, case.model)(config(case))
    untie(case, made)
    with torch.no_grad():
        for name, parameter in (*made.named_parameters(), *biases(made)):
            if "embed_positions" in name and not parameter.requires_grad:
                continue  # sines and cosines
            if is_split(case, name, parameter):
                for saved, part in experts(case, name, parameter):
                    part.copy_(torch.from_numpy(weight(saved, tuple(part.shape))))
                continue
            parameter.copy_(torch.from_numpy(weight(saved_name(case, name), tuple(parameter.shape))))
    return made.float().eval()


def is_split(case: Case, name: str, parameter: torch.Tensor) -> bool:
    """Return whether a parameter holds all experts of a layer, which are saved one by one. Those of gpt-oss are saved as they are in the model."""
    return ".experts." in name and parameter.dim() == 3 and case.family != "gpt-oss"


def experts(case: Case, name: str, stacked: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Return the tensors of single experts, by the names under which they are saved: `transformers` 5 stacks them, and joins gates and branches."""
    names = ("w1", "w3", "w2") if case.family == "Mixtral" else ("gate_proj", "up_proj", "down_proj")
    folder = saved_name(case, name.rpartition(".")[0])
    found = []
    for number, one in enumerate(stacked):
        parts = one.chunk(2) if name.endswith("gate_up_proj") else (one,)
        for own, part in zip(names if len(parts) == 2 else names[2:], parts, strict=False):
            found.append((f"{folder}.{number}.{own}.weight", part))
    return found


def gradients(case: Case, made: Any) -> dict[str, torch.Tensor | None]:
    """Return the gradients of the parameters, by the names under which they are saved or, where these differ, by those in the model."""
    named: dict[str, torch.Tensor | None] = {}
    for name, parameter in made.named_parameters(remove_duplicate=False):
        if is_split(case, name, parameter) and parameter.grad is not None:
            named.update(experts(case, name, parameter.grad))
        else:
            named[saved_name(case, name) if case.family == "Mixtral" else name] = parameter.grad
    return named


def biases(made: Any) -> list[tuple[str, torch.Tensor]]:
    """Return the biases that are buffers, saved but not trained: of the logits of BART's families, and of the routers of DeepSeek-V3."""
    names = ("final_logits_bias", "e_score_correction_bias")
    return [(name, buffer) for name, buffer in made.named_buffers() if name.rpartition(".")[2] in names]


def saved_name(case: Case, name: str) -> str:
    """Return the name under which a parameter is saved.

    `transformers` 5 renames the head of GPT-NeoX and the encoder of T5Gemma 2, and lists the tied embeddings of XLM-RoBERTa as its head, which it creates
    first.
    """
    if case.family == "Mixtral":
        return name.replace(".mlp.", ".block_sparse_moe.")
    if case.family == "XLM-RoBERTa":
        return name.replace("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight")
    if case.family == "T5Gemma 2":
        return name.replace("encoder.text_model.", "encoder.")
    return name.replace("lm_head.", "embed_out.") if case.family == "GPT-NeoX" else name


def untie(case: Case, made: Any) -> None:
    """Give T5 1.1 a separate head. `transformers` 5 creates one only if it loads weights for it."""
    if case.model.endswith("EncoderModel"):
        return
    if case.family == "umT5" or (case.options.get("tie_word_embeddings") is False and case.family in ("T5", "LongT5")):
        made.lm_head.weight = torch.nn.Parameter(made.lm_head.weight.detach().clone())
    if case.family == "umT5":
        # transformers 5 forces this to true, which scales the input of the head; the published weights do not use this scaling
        made.config.tie_word_embeddings = False


def save(made: Any, directory: Path) -> None:
    """Save a model with `save_pretrained`."""
    made.save_pretrained(directory)


def given_to(case: Case, given: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return the arguments of a model call, including labels."""
    ids, mask = torch.tensor(given["ids"]), torch.tensor(given["mask"])
    arguments = {"input_ids": ids, "attention_mask": mask}
    if case.family == "RWKV-4":
        arguments["use_cache"] = False  # its state is changed in place, which leaves no gradient
    if case.kind == "encoder_decoder":
        labels = torch.tensor(given["targets"])
        if case.family == "mBART":
            # Otherwise it starts from the last label, a language.
            arguments["decoder_input_ids"] = torch.nn.functional.pad(labels[:, :-1], (1, 0))
        if case.family == "Switch Transformers":
            arguments["output_router_logits"] = True
        return {**arguments, "labels": labels}
    if case.family in ("BERT", "ALBERT", "ELECTRA", "DeBERTa"):
        arguments["token_type_ids"] = torch.tensor(given["types"])
    if case.output == "span":
        return arguments
    if case.output == "label":
        return {**arguments, "labels": ids[:, 0] % case.labels}
    if case.output in PROBLEMS.values():
        return {**arguments, "labels": torch.tensor(values(case, given))}
    targets = ids if case.output == "tokens" else ids % case.labels
    return {**arguments, "labels": torch.where(mask == 1, targets, -100)}


def called(case: Case, made: Any, given: dict[str, np.ndarray]) -> Any:
    """Return the outputs, with logits and a loss. The logits of an encoder without a head are the product with the embeddings.

    A model that was pretrained with pairs has the logits and the loss of its masked-LM head.
    """
    arguments = given_to(case, given)
    if not (case.base or case.paired):
        return made(**arguments)
    labels = arguments.pop("labels")
    if case.paired:
        logits = made(**arguments).prediction_logits
    elif case.output == "vectors":
        logits = made(**arguments).last_hidden_state
    else:
        logits = made(**arguments).last_hidden_state @ made.get_input_embeddings().weight.T
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    return SimpleNamespace(logits=logits, loss=loss)


def logits(case: Case, made: Any) -> np.ndarray:
    """Return the logits for the inputs of a case."""
    with torch.no_grad():
        out = called(case, made, inputs(case))
    logits = torch.stack([out.start_logits, out.end_logits], -1) if case.output == "span" else out.logits
    logits = logits[..., None] if case.output == DETECTOR else logits
    return logits.numpy()


def pairs(case: Case, made: Any) -> np.ndarray:
    """Return the logits of the classifier of pairs."""
    arguments = given_to(case, inputs(case))
    del arguments["labels"]
    with torch.no_grad():
        out = made(**arguments)
    return (out.sop_logits if case.family == "ALBERT" else out.seq_relationship_logits).numpy()


def generated(case: Case, made: Any, given: dict[str, np.ndarray], beams: int) -> np.ndarray:
    """Return the generated ids of each row, decoded one row at a time, with 0 after EOS."""
    rows = []
    for row in range(len(given["ids"])):
        count = int(given["mask"][row].sum())
        ids = torch.tensor(given["ids"][row : row + 1, :count])
        with torch.no_grad():
            found = made.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                num_beams=beams,
                length_penalty=0.0,
                max_new_tokens=NEW,
                # its cache has as many layers as the encoder, even if the decoder has more (5.23); RWKV's state cannot be reordered
                use_cache=case.options.get("num_decoder_layers", 0) <= case.options.get("num_layers", 0)
                and not (case.family == "RWKV-4" and beams > 1),
                eos_token_id=EOS,
                pad_token_id=0,
            )[0].numpy()
        found = found[1:] if case.kind == "encoder_decoder" else found[count:]
        rows.append(np.pad(found, (0, NEW - len(found))))
    return np.stack(rows)

"""Compare the cases in both libraries: logits, generation, gradients, 100 steps of AdamW, and a round trip of export and import."""

from __future__ import annotations

import copy
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import torch
import transformers

from t2t.export.directory import flatten
from t2t.export.huggingface import opened, write_huggingface
from t2t.export.mapping import write_tensor
from t2t.models.families import exportable, family_of
from t2t.sharding import MeshConfig
from t2t.vocabularies import Bytes
from tests.interop import ours, theirs
from tests.interop.case import Case
from tests.interop.cases import CASES, inputs

STEPS = 100


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a case. Generation is None for encoders, training is None for spans."""

    case: str
    parameters: int
    logits: float
    back: float
    greedy: bool | None
    beam: bool | None
    gradients: float | None
    curve: float | None


def compare(case: Case, *, train: bool = True) -> Result:
    """Compare one case."""
    model = theirs.model(case)
    # Positions that depend on the length keep the frequencies of the longest text so far, so training starts from a model that has generated nothing.
    untouched = copy.deepcopy(model)
    given = inputs(case)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save(model, Path(folder) / "theirs")
        with opened(Path(folder) / "theirs", family_of) as source:
            params, own, read = source.params(MeshConfig().build()), source.model, source.wanted
        wanted = theirs.logits(case, model)
        batch = ours.batch(case, given)
        made = ours.logits(case, own, params, given)
        out = Path(folder) / "ours"
        _, options, tensors = exportable(own.config)
        write_huggingface(params, options, tensors, Bytes(), out, kind=case.kind)
        back = getattr(transformers, options["architectures"][0]).from_pretrained(out)
        if case.family == "umT5":
            back.config.tie_word_embeddings = False
        returned = theirs.logits(case, back.float().eval())
    # transformers allows spans that start in the padding, so its loss differs.
    train &= case.output != "span"
    gradients = _gradients(case, model, own, params, batch, read) if case.output != "span" else None
    generation: list[bool | None] = [None, None]
    if case.kind != "encoder":
        for place, beams in enumerate((1, 4)):
            ids = ours.generated(case, own, params, given, beams), theirs.generated(case, model, given, beams)
            generation[place] = bool(np.array_equal(*ids))
    return Result(
        case=case.name,
        parameters=sum(int(leaf.size) for leaf in jax.tree.leaves(params)),
        logits=_largest(ours.real(case, given, made), ours.real(case, given, wanted)),
        back=_largest(ours.real(case, given, returned), ours.real(case, given, wanted)),
        greedy=generation[0],
        beam=generation[1],
        gradients=gradients,
        curve=_curves(case, untouched, own, params) if train else None,
    )


def _largest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


def _their_loss(case: Case, model: Any, given: dict[str, np.ndarray]) -> Any:
    return theirs.called(case, model, given).loss


def _gradients(case: Case, model: Any, own: Any, params: Any, batch: Any, tensors: Any) -> float:
    grads = flatten(jax.jit(jax.grad(lambda p: ours.loss(own, p, batch)))(params))
    model.zero_grad()
    _their_loss(case, model, inputs(case)).backward()
    named = theirs.gradients(case, model)

    def theirs_of(tensor: Any) -> Any:
        names = (tensor.name, *tensor.aliases, tensor.name.partition(".")[2])  # a base model has no prefix
        return next((named[name] for name in names if name in named), None)

    found = [(write_tensor(tensor, grads), theirs_of(tensor)) for tensor in tensors]
    return max(_largest(ours, theirs.numpy()) for ours, theirs in found if theirs is not None)


def _curves(case: Case, model: Any, own: Any, params: Any) -> float:
    """Return the largest difference of the losses over STEPS steps of AdamW, which cycle through the same four batches."""
    random = np.random.default_rng(7)
    batches = []
    for _ in range(4):
        given = inputs(case)
        drawn = np.where(given["mask"] == 1, random.integers(5, 96, given["ids"].shape), given["ids"])
        batches.append({**given, "ids": drawn, "targets": random.integers(5, 96, given["targets"].shape)})
    transform = optax.adamw(case.rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(lambda p: ours.loss(own, p, batch))(params)
        updates, state = transform.update(grads, state, params)
        if case.kind == "encoder_decoder" and "bias" in params.get("lm_head", {}):
            # transformers has it in a buffer, which is not trained
            updates["lm_head"]["bias"] *= 0
        # The load changes the biases of routers, in transformers nothing does.
        updates = jax.tree.map(
            lambda change, spec: change if spec.load_rate is None else 0 * change, updates, own.specs
        )
        return optax.apply_updates(params, updates), state, value

    optimizer = torch.optim.AdamW(model.parameters(), lr=case.rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    model.train()
    state, worst = transform.init(params), 0.0
    for number in range(STEPS):
        given = batches[number % 4]
        params, state, value = step(params, state, ours.batch(case, given))
        optimizer.zero_grad()
        loss = _their_loss(case, model, given)
        loss.backward()
        for parameter in model.parameters():
            if parameter.grad is None:
                # an expert without tokens: PyTorch would leave it out, with its weight decay
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        worst = max(worst, abs(float(value) - float(loss)))
    return worst


def said(result: Result) -> str:
    """Return the result as a row of a Markdown table."""
    generation = ["" if found is None else "equal" if found else "DIFFERS" for found in (result.greedy, result.beam)]
    training = ["" if found is None else f"{found:.1e}" for found in (result.gradients, result.curve)]
    numbers = f"{result.logits:.1e} | {result.back:.1e} | {' | '.join([*generation, *training])}"
    return f"| {result.case} | {result.parameters:,} | {numbers} |"


HEAD = """| case | parameters | logits | logits, exported | greedy | beam | gradients | 100 steps |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def main() -> None:
    """Print the table of all cases, or of cases whose names contain one of the given words. Exit with 1 if a difference is too large."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(2)
    wanted = [case for case in CASES if not sys.argv[1:] or any(word in case.name for word in sys.argv[1:])]
    print(HEAD, flush=True)
    good = True
    for case in wanted:
        result = compare(case)
        print(said(result), flush=True)
        good &= max(result.logits, result.back, result.gradients or 0.0) < 1e-4 and (result.curve or 0.0) < 1e-3
        good &= result.greedy in (None, True) and result.beam in (None, True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

"""Compare the objective `Preference` with TRL: losses, rewards and gradients of a small LLaMA.

    python -m tests.interop.preferences

It needs torch, transformers, accelerate, datasets and trl.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
import torch
import transformers
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from t2t.export.directory import flatten
from t2t.export.huggingface import opened
from t2t.export.mapping import write_tensor
from t2t.models.families import family_of
from t2t.objectives import Preference
from t2t.objectives.objective import Teacher
from t2t.objectives.preference import pair_losses
from t2t.sharding import MeshConfig
from t2t.types import Batch
from tests.interop import theirs
from tests.interop.adapters import ADAPTED
from tests.models.tiny import row, rows

LIMIT = 1e-5
CASE = next(adapted.case for adapted in ADAPTED if adapted.name == "llama")
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "DPO": ({"loss_type": ["sigmoid"]}, {"kind": "dpo"}),
    "robust": ({"loss_type": ["robust"], "label_smoothing": 0.2}, {"kind": "robust", "label_smoothing": 0.2}),
    "IPO": ({"loss_type": ["ipo"]}, {"kind": "ipo"}),
}
BETA = 0.3


def tokenizer(size: int) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of words "3", "4", ... that are their ids."""
    words = {"<pad>": 0, "<eos>": 1, "<bos>": 2, **{str(i): i for i in range(3, size)}}
    found = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    found.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found, pad_token="<pad>", eos_token="<eos>")


def pairs(size: int) -> datasets.Dataset:
    """Return random pairs of answers."""
    random = np.random.default_rng(0)

    def words(most: int) -> str:
        return " ".join(map(str, random.integers(3, size, random.integers(1, most))))

    return datasets.Dataset.from_list(
        [{"prompt": words(6) + " ", "chosen": words(7), "rejected": words(5)} for _ in range(4)]
    )


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy with other values."""
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return other


def batch_of(inputs: Any) -> Batch:
    """Return the pairs of a batch of TRL as rows: the preferred answer is segment 1, the other one segment 2."""
    ids, kept, counted = (np.asarray(inputs[name]) for name in ("input_ids", "attention_mask", "completion_mask"))
    count = len(ids) // 2
    texts = [one[mask > 0] for one, mask in zip(ids, kept, strict=True)]
    masks = [one[mask > 0] for one, mask in zip(counted, kept, strict=True)]
    length = max(len(texts[i]) + len(texts[i + count]) for i in range(count))
    tokens = rows([row([texts[i][:-1], texts[i + count][:-1]], length) for i in range(count)])
    targets, weights = np.zeros((count, length), np.int32), np.zeros((count, length), np.float32)
    for i in range(count):
        wanted = np.concatenate([texts[i][1:], texts[i + count][1:]])
        targets[i, : len(wanted)] = wanted
        weights[i, : len(wanted)] = np.concatenate([masks[i][1:], masks[i + count][1:]])
    return Batch(encoder=None, decoder=tokens, targets=targets, weights=weights)


def read(model: torch.nn.Module, folder: Path) -> tuple[Any, Any, Any]:
    """Return our model, its parameters, and the tensors of theirs."""
    theirs.save(model, folder)
    with opened(folder, family_of) as source:
        return source.config.build(), source.params(MeshConfig().build()), source.wanted


def compare(name: str, folder: Path) -> tuple[float, float, float]:
    """Return the largest differences of the loss, the rewards and the gradients."""
    options, own_options = KINDS[name]
    policy = theirs.model(CASE)
    reference = perturbed(policy)
    model, params, wanted = read(policy, folder / "policy")
    _, other, _ = read(reference, folder / "reference")
    size = policy.config.vocab_size
    config = DPOConfig(
        output_dir=str(folder / "out"),
        beta=BETA,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        **options,
    )
    trainer = DPOTrainer(policy, reference, config, train_dataset=pairs(size), processing_class=tokenizer(size))
    inputs = next(iter(trainer.get_train_dataloader()))
    policy.train()
    loss = trainer.compute_loss(policy, dict(inputs))
    loss.backward()
    objective = Preference(reference="reference", beta=BETA, **own_options)
    batch = batch_of(inputs)

    def value(params: Any) -> Any:
        sums = objective.taught_loss(Teacher(model, other), model, params, batch)
        return sums.objective / sums.weight, sums

    (found, sums), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(params)
    metrics = trainer._metrics["train"]
    rewards = [
        abs(float(sums.extra[ours][0] / sums.weight) - metrics[f"rewards/{name}"][-1])
        for ours, name in (("reward_chosen", "chosen"), ("reward_rejected", "rejected"), ("reward_margin", "margins"))
    ]
    named, flat = dict(policy.named_parameters()), flatten(gradient)
    gradients = [
        np.abs(np.asarray(write_tensor(tensor, flat)) - named[tensor.name].grad.numpy()).max() for tensor in wanted
    ]
    return abs(float(found) - loss.item()), max(rewards), float(max(gradients))


def without_reference() -> dict[str, float]:
    """Return the differences of SimPO's and ORPO's losses of given log-probabilities."""
    random = np.random.default_rng(2)
    sizes = random.integers(1, 9, (2, 5)).astype(np.float32)
    sums = (-random.gamma(2.0, size=(2, 5)) * sizes).astype(np.float32)
    own = SimpleNamespace(
        chosen=sums[0],
        rejected=sums[1],
        means=tuple(jnp.asarray(sums / sizes)),
        chosen_size=sizes[0],
        rejected_size=sizes[1],
    )
    means = [torch.from_numpy(one) for one in sums / sizes]
    device = SimpleNamespace(device="cpu")
    simpo = SimpleNamespace(
        alpha=0.0, beta=2.0, simpo_gamma=0.7, loss_type="simpo", label_smoothing=0.0, accelerator=device
    )
    wanted = CPOTrainer.cpo_loss(simpo, *means)[0].numpy()
    found = pair_losses(Preference(kind="simpo", beta=2.0, gamma=0.7), own, None)[0]
    orpo = SimpleNamespace(beta=0.4, accelerator=device)
    # TRL subtracts this from the cross-entropy, which it computes with the prompt.
    odds = -ORPOTrainer.odds_ratio_loss(orpo, *means)[0].numpy()
    ours = pair_losses(replace(Preference(kind="orpo"), beta=0.4), own, None)[0] + own.means[0]
    return {"SimPO": float(np.abs(found - wanted).max()), "ORPO, odds": float(np.abs(ours - odds).max())}


def main() -> int:
    """Print the differences. Return 1 if one is too large."""
    transformers.logging.set_verbosity_error()
    worst = 0.0
    print("| loss | loss | rewards | gradients |\n| --- | --- | --- | --- |")
    for name in KINDS:
        with tempfile.TemporaryDirectory(prefix="t2t-trl-") as folder:
            found = compare(name, Path(folder))
        print(f"| {name} | {' | '.join(f'{one:.1e}' for one in found)} |", flush=True)
        worst = max(worst, *found)
    for name, difference in without_reference().items():
        print(f"| {name} | {difference:.1e} | | |")
        worst = max(worst, difference)
    return 0 if worst < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())

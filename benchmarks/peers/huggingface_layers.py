"""transformers on PyTorch: the forward and backward pass of decoders of one layer."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from transformers.integrations.bitnet import replace_with_bitnet_linear

from benchmarks import batches
from benchmarks.cases import Case
from benchmarks.protocol import Answer, Prepared
from benchmarks.published_layers import options


def config(case: Case) -> Any:
    """Return the config of the case."""
    values = options(case)
    return transformers.AutoConfig.for_model(values.pop("model_type"), **values)


def model(case: Case) -> Any:
    """Return the decoder of the case without its head, with random weights."""
    made = config(case)
    rounding = getattr(made, "quantization_config", None)
    if rounding is not None:
        del made.quantization_config
    network = transformers.AutoModel.from_config(made).float()
    if rounding is not None:
        settings = transformers.BitNetQuantConfig(**_without_method(rounding))
        network = replace_with_bitnet_linear(network, quantization_config=settings)
        # The new layers have no memory yet.
        for part in network.modules():
            if isinstance(part, torch.nn.Linear) and part.weight.is_meta:
                torch.nn.init.normal_(part.to_empty(device="cpu").weight, std=0.02)
    return network


def mean_square(network: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the mean square of the output of the last norm."""
    found = network(input_ids=ids, use_cache=False)
    return found.last_hidden_state.float().square().mean()


def layer(case: Case) -> Prepared:
    """Prepare the gradient of all parameters."""
    network = model(case).train()
    ids = torch.from_numpy(batches.layer_ids(case)).long()

    def run() -> None:
        network.zero_grad(set_to_none=True)
        mean_square(network, ids).backward()

    facts = {"parameters": sum(parameter.numel() for parameter in network.parameters())}
    attention = getattr(network.config, "_attn_implementation", None)
    return Prepared(run=run, tokens=ids.numel(), facts={**facts, "attention": attention})


def check(case: Case, directory: str) -> Answer:
    """Load the model that our peer wrote and return the mean square of its output on the same rows."""
    if "quantization_config" in options(case):
        # Loading it as it is needs another package, accelerate.
        loaded = model(case).eval()
        weights = load_file(f"{directory}/model.safetensors")
        loaded.load_state_dict({name.removeprefix("model."): weight for name, weight in weights.items()})
    else:
        loaded = transformers.AutoModel.from_pretrained(directory).float().eval()
    with torch.no_grad():
        loss = float(mean_square(loaded, torch.from_numpy(batches.layer_ids(case)).long()))
    return {"loss": loss, "parameters": sum(parameter.numel() for parameter in loaded.parameters())}


def _without_method(rounding: Any) -> dict[str, Any]:
    values = dict(rounding) if isinstance(rounding, dict) else rounding.to_dict()
    return {name: value for name, value in values.items() if name != "quant_method"}

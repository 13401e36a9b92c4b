"""Adapters of PEFT for some of the cases, and directories made from their golden files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.interop.case import Case
from tests.interop.cases import CASES, weight

FOLDER = Path(__file__).parent / "golden_adapters"
_BY_NAME = {case.name: case for case in CASES}


@dataclass(frozen=True)
class Adapted:
    """A case with an adapter: the name of the case, and the options of the adapter's configuration in PEFT."""

    name: str
    of: str
    options: dict[str, Any]
    kind: str = "LoraConfig"

    @property
    def case(self) -> Case:
        """The case of the model."""
        return _BY_NAME[self.of]


ADAPTED = (
    Adapted("t5", "T5 1.1", {"r": 4, "lora_alpha": 8, "target_modules": ["q", "v", "wo"]}),
    Adapted(
        "bert-label",
        "BERT label",
        {"r": 4, "target_modules": ["query", "value"], "modules_to_save": ["classifier"], "use_rslora": True},
    ),
    Adapted(
        "llama",
        "LLaMA 3: grouped, llama3 positions",
        {
            "r": 4,
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"down_proj": 2},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 20},
        },
    ),
    Adapted(
        "llama-embeddings",
        "LLaMA 3: grouped, llama3 positions",
        {"r": 3, "lora_alpha": 9, "lora_dropout": 0.1, "target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    ),
    Adapted("gpt-neox-embeddings", "GPT-NeoX Pythia as published", {"r": 3, "target_modules": ["embed_in", "embed_out"]}),
    Adapted("gpt-2", "GPT-2 as published", {"r": 3, "target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True}),
    Adapted("gpt-neox", "GPT-NeoX Pythia as published", {"r": 3, "target_modules": ["query_key_value"]}),
    Adapted("dora-t5", "T5 1.0", {"r": 3, "lora_alpha": 6, "use_dora": True, "target_modules": ["q", "v", "wi"]}),
    Adapted("dora-gpt-2", "GPT-2 as published", {"r": 3, "use_dora": True, "target_modules": ["c_attn"], "fan_in_fan_out": True}),
    Adapted("ia3-t5", "T5 1.1", {"target_modules": ["k", "v", "wo"], "feedforward_modules": ["wo"]}, kind="IA3Config"),
    Adapted(
        "ia3-bert",
        "BERT masked LM",
        {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]},
        kind="IA3Config",
    ),
    Adapted(
        "ia3-gpt-2",
        "GPT-2 as published",
        {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"], "fan_in_fan_out": True},
        kind="IA3Config",
    ),
    Adapted(
        "prompt-t5",
        "T5 1.1",
        {"task_type": "SEQ_2_SEQ_LM", "num_virtual_tokens": 5, "num_transformer_submodules": 1},
        kind="PromptTuningConfig",
    ),
    Adapted("prompt-gpt-2", "GPT-2 as published", {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5}, kind="PromptTuningConfig"),
)  # fmt: skip


def golden(adapted: Adapted) -> dict[str, Any]:
    """Return the stored values of PEFT: adapter_config.json, names and shapes of the tensors, and logits."""
    return json.loads((FOLDER / f"{adapted.name}.json").read_text(encoding="utf-8"))


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 values of a tensor of an adapter, the same on every machine."""
    return weight(name, shape)


def write_directory(adapted: Adapted, directory: Path, **options: Any) -> dict[str, Any]:
    """Write adapter_config.json with changed `options`, and adapter_model.safetensors. Return the stored values."""
    found = golden(adapted)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps({**found["config"], **options}))
    tensors = {name: value(name, tuple(shape)) for name, shape in found["tensors"].items()}
    save_file(tensors, directory / "adapter_model.safetensors")
    return found

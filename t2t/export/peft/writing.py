"""Write an adapter for PEFT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from t2t.adapters import Adapter
from t2t.errors import UserError
from t2t.export.directory import flatten, write_json, writing
from t2t.export.mapping import Tensor, some, write_tensor
from t2t.export.peft import factors, low_rank, prompt
from t2t.export.peft.files import CONFIG, WEIGHTS
from t2t.export.peft.sites import PREFIX, Site, shortened, sites
from t2t.nn.model import Kind
from t2t.types import Params

_TASKS: dict[Kind, str] = {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM"}
_README = """# An adapter for PEFT

```python
from peft import PeftModel

model = PeftModel.from_pretrained(base, DIRECTORY)  # base: the model in transformers, {architecture}
```
"""


def write_adapter(
    params: Params,
    adapter: Adapter,
    trained: Sequence[str],
    wanted: Sequence[Tensor],
    out: str | Path,
    *,
    kind: Kind,
    architecture: str,
    overwrite: bool = False,
) -> Path:
    """Write adapter_config.json and adapter_model.safetensors, in float32.

    params:       all parameters of the model with the adapter.
    trained:      paths of the parameters of the model that are trained as well (`Adapter.trained`). PEFT stores their modules with the adapter (`modules_to_save`).
    wanted:       tensors of the model without adapter, from `t2t.models.families.exportable`.
    architecture: class of the model in `transformers`.

    A layer of theirs may compute several of ours (GPT-2's `c_attn`). If these have one matrix `a`, so has theirs. Otherwise the rank of theirs is the sum of
    their ranks: `rank_pattern` and `alpha_pattern` say so.

    Raises UserError, naming it, if PEFT cannot have an adapter at a linear layer, or if only a part of a module is trained.
    """
    flat = flatten(params)
    modules = [tensor.name.rpartition(".")[0] for tensor in wanted]
    if adapter.kind == "prompt":
        tensors, options = prompt.write(adapter, wanted, flat)
    else:
        chosen = _chosen(flat, wanted)
        if adapter.kind == "ia3":
            tensors, options = factors.write(adapter, chosen, modules, flat)
        else:
            tensors, options = low_rank.write(adapter, chosen, flat)
        options |= {
            "target_modules": shortened([site.module for site in chosen], modules),
            "fan_in_fan_out": any(site.inputs_first for site in chosen if not site.table),
        }
    saved = _modules_to_save(trained, wanted)
    if adapter.kind == "prompt" and (saved or kind not in _TASKS):
        what = f"trained parameters of the model ({', '.join(saved)})" if saved else f"a model of kind {kind}"
        raise UserError(f"--format peft: PEFT has no prompt tuning with {what}. Nearest: --adapter.kind lora.")
    for tensor in wanted:
        if tensor.name.rpartition(".")[0] in saved:
            tensors[f"{PREFIX}{tensor.name}"] = np.ascontiguousarray(write_tensor(tensor, flat), np.float32)
    with writing(Path(out), overwrite=overwrite) as draft:
        more = {
            "base_model_name_or_path": None,
            "task_type": _TASKS.get(kind),
            **({} if adapter.kind == "prompt" else {"modules_to_save": saved or None}),
            "inference_mode": True,
        }
        write_json(draft / CONFIG, {**options, **more})
        save_file(tensors, draft / WEIGHTS, metadata={"format": "pt"})
        (draft / "README.md").write_text(_README.format(architecture=architecture), encoding="utf-8")
    return Path(out)


def _chosen(flat: Mapping[str, Any], wanted: Sequence[Tensor]) -> list[Site]:
    """Return their linear layers and tables that hold those of ours with an adapter. Raises UserError if they hold not all of them."""
    known = sites(wanted)
    adapted = {path.partition("/adapter/")[0] for path in flat if "/adapter/" in path}
    if lost := sorted(adapted - {path for site in known.values() for path in site.paths}):
        raise UserError(
            f"--format peft: PEFT cannot have the adapter of {some(lost)}: it is no linear layer or table of its own in transformers"
        )
    return [site for site in known.values() if adapted & set(site.paths)]


def _modules_to_save(trained: Sequence[str], wanted: Sequence[Tensor]) -> list[str]:
    """Return the modules of trained parameters. Raises UserError if another parameter of such a module is not trained."""
    paths = set(trained)
    saved = {tensor.name.rpartition(".")[0] for tensor in wanted if paths & set(tensor.ours)}
    for tensor in wanted:
        module = tensor.name.rpartition(".")[0]
        if module in saved and (frozen := sorted(set(tensor.ours) - paths)):
            raise UserError(
                f"--format peft: {frozen[0]} is frozen, but it is in the module {module} with trained parameters, and PEFT stores whole modules"
                " (--adapter.trained)"
            )
    return sorted(saved)

"""Read an adapter of PEFT."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from t2t.errors import UserError, nearest
from t2t.export.family import Options
from t2t.export.mapping import Tensor
from t2t.export.peft import factors, low_rank, prompt
from t2t.export.peft.files import CONFIG, AdapterFile, Found, Read
from t2t.export.peft.sites import PREFIX, Site, sites
from t2t.json_files import expect, read_json
from t2t.stored_paths import check_links

_KINDS = {"LORA": low_rank.KINDS, "IA3": factors.KINDS}
_PROMPT = "PROMPT_TUNING"
_BASE = ".base_layer.weight"
"""End of the name of a parameter that the adapter does not change, in a file that has it too."""
_FREE = "auto_mapping base_model_name_or_path revision inference_mode peft_version task_type runtime_config target_modules exclude_modules"
"""Options that do not change what a trained adapter computes, or that the names of the tensors repeat."""


def read_adapter(directory: Path, wanted: Sequence[Tensor], *, prefix: str) -> Read:
    """Read a LoRA, DoRA, IA3 or prompt of PEFT for a model with the tensors `wanted`.

    prefix: prefix of the names of the tensors, which a checkpoint of the base model does not have (`Family.prefix`).

    Raises UserError, naming it, for an option that is not supported, and for a tensor that is missing, unknown, or of another shape.
    """
    if not (directory / CONFIG).is_file():
        raise UserError(f"{directory}: not an adapter of PEFT: {CONFIG} is missing")
    check_links(directory, (".json", ".safetensors"))
    where = str(directory / CONFIG)
    options = Options(expect(read_json(directory / CONFIG), dict, where), where=where)
    kind = options.take("peft_type")
    if kind not in (*_KINDS, _PROMPT):
        raise options.refuse("peft_type", kind, f"only {', '.join(_KINDS)} and {_PROMPT} are supported")
    options.flag("fan_in_fan_out", False)  # the shapes say so too
    options.free(*_FREE.split())
    saved = expect(options.take("modules_to_save", []), list, f"{where}: modules_to_save")
    known = sites(wanted)
    with AdapterFile(directory) as file:
        if kind == _PROMPT:
            return prompt.read(file, options, wanted)
        found, kept, base = _sorted(file, known, _KINDS[kind], saved, prefix)
        of_kind = low_rank if kind == "LORA" else factors
        read = of_kind.read(file, options, found, known)
        trained, frozen = (_whole(file, wanted, names, prefix) for names in (kept, base))
    targets = {path for module in found for path in known[module].paths}
    adapter = replace(read.adapter, targets=tuple(sorted(targets)), trained=tuple(sorted(trained)))
    return replace(read, adapter=adapter, params={**read.params, **trained}, frozen=frozen)


def _sorted(
    file: AdapterFile, known: Mapping[str, Site], kinds: Collection[str], saved: Sequence[Any], prefix: str
) -> tuple[Found, dict[str, str], dict[str, str]]:
    """Return the tensors of the adapter, then those of saved modules and those of the base model: their names in the model -> in the file.

    kinds: of tensors of the adapter.
    """
    found: Found = {}
    kept, base = {}, {}
    for name in file.names:
        parsed = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.({'|'.join(kinds)})(?:\.weight)?", name)
        if parsed is None:
            plain = name.removeprefix(PREFIX)
            if plain.endswith(_BASE):
                base[plain.removesuffix(_BASE) + ".weight"] = name
                continue
            if not any(f".{module}." in f".{plain}" for module in saved):
                raise UserError(f"{file.path}: tensor {name} is not supported: it is none of {', '.join(kinds)}")
            kept[plain] = name
            continue
        module = next((one for one in (parsed[1], prefix + parsed[1]) if one in known), None)
        if module is None:
            raise UserError(
                f"{file.path}: the base model has no linear layer or token embeddings {parsed[1]} for an adapter ({name}).{nearest(parsed[1], known)}"
            )
        found.setdefault(module, {})[parsed[2]] = name
    if not found:
        raise UserError(f"{file.path}: there are no tensors {', '.join(kinds)}")
    return found, kept, base


def _whole(file: AdapterFile, wanted: Sequence[Tensor], kept: Mapping[str, str], prefix: str) -> dict[str, np.ndarray]:
    """Return our parameters that PEFT saved with the adapter. Raises UserError if the model has no such parameter."""
    by_name = {tensor.name: tensor for tensor in wanted}
    params: dict[str, np.ndarray] = {}
    for plain, name in kept.items():
        tensor = by_name.get(plain) or by_name.get(prefix + plain)
        if tensor is None or tensor.layer is not None:
            raise UserError(
                f"{file.path}: {name} (modules_to_save) is not a parameter of the base model outside its layers.{nearest(plain, by_name)}"
            )
        file.expect(name, tensor.shape)
        params.update(zip(tensor.ours, tensor.operation.to_ours(file.read(name), tensor.shapes), strict=True))
    return params

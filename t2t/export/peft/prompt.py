"""Prompt tuning in PEFT's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t2t.adapters import Adapter
from t2t.errors import UserError
from t2t.export.family import Options
from t2t.export.mapping import Tensor
from t2t.export.peft.files import AdapterFile, Read

NAME = "prompt_embeddings"


def read(file: AdapterFile, options: Options, wanted: Sequence[Tensor]) -> Read:
    """Return an adapter. wanted: the tensors of the model."""
    count = options.size("num_virtual_tokens")
    options.must("num_transformer_submodules", 1, why="virtual tokens of the decoder are not supported")
    options.free("token_dim", "num_attention_heads", "num_layers", "prompt_tuning_init", "prompt_tuning_init_text")
    options.free("tokenizer_name_or_path", "tokenizer_kwargs")
    options.finish()
    if file.names != [NAME]:
        raise UserError(
            f"{file.path}: there must be the tensor {NAME} alone, but there are {', '.join(file.names[:4])}"
        )
    path, width = _table(wanted)
    file.expect(NAME, (count, width))
    adapter = Adapter(kind="prompt", virtual_tokens=count)
    return Read(adapter=adapter, params={path: file.read(NAME)})


def write(
    adapter: Adapter, wanted: Sequence[Tensor], flat: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the tensor of an adapter, and its options. flat: path -> array of all parameters."""
    path, width = _table(wanted)
    options = {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": adapter.virtual_tokens,
        "token_dim": width,
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
    }
    return {NAME: np.asarray(flat[path], np.float32)}, options


def _table(wanted: Sequence[Tensor]) -> tuple[str, int]:
    """Return the path of the virtual tokens, and their width."""
    widths = {path: shape[-1] for tensor in wanted for path, shape in zip(tensor.ours, tensor.shapes, strict=True)}
    token = next(path for path in ("encoder_embeddings/token/table", "embeddings/token/table") if path in widths)
    return token.replace("/table", "/virtual/table"), widths[token]

"""Compare exports of ternary weights with BitNetForCausalLM of `transformers`: float weights that each product rounds, and packed ones.

    python -m tests.interop.ternary

It needs torch, transformers and accelerate.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers

from t2t.export.huggingface import opened, write_huggingface
from t2t.export.packed_ternary import PackedTernary
from t2t.models.families import exportable, family_of
from t2t.sharding import MeshConfig
from t2t.vocabularies import Bytes
from tests.interop import ours, theirs
from tests.interop.cases import CASES, inputs

LIMIT = 1e-4
CASE = next(case for case in CASES if case.family == "BitNet")


def logits(model: Any) -> np.ndarray:
    """Return the logits of `transformers` for the inputs of the case."""
    return ours.real(CASE, inputs(CASE), theirs.logits(CASE, model.eval()))


def main() -> int:
    """Print the largest difference of logits for each kind of weights. Return 1 if one is too large."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    good = True
    with tempfile.TemporaryDirectory(prefix="t2t-ternary-") as name:
        folder = Path(name)
        theirs.save(theirs.model(CASE), folder / "floats")
        with opened(folder / "floats", family_of) as source:
            params = source.params(MeshConfig().build())
        config: Any = dataclasses.replace(source.config, quantization="ternary")  # type: ignore[type-var]
        _, options, wanted = exportable(config)
        model, own = config.build(), ours.batch(CASE, inputs(CASE))
        stored = model.quantized("ternary")
        rows = {
            "each product rounds": (None, model, params),
            "packed": (PackedTernary(config, wanted, dtype="float32"), stored, stored.compressed(params)),
        }
        for kind, (layout, network, values) in rows.items():
            write_huggingface(params, options, wanted, Bytes(), folder / kind, kind="decoder", layout=layout)
            read = transformers.BitNetForCausalLM.from_pretrained(folder / kind)
            found = ours.real(CASE, inputs(CASE), np.asarray(jax.jit(network.logits)(values, own)))
            difference = float(np.abs(found - logits(read)).max())
            plain = ours.real(CASE, inputs(CASE), theirs.logits(CASE, theirs.model(CASE)))
            print(f"| {kind} | {difference:.1e} | {float(np.abs(found - plain).max()):.1e} |", flush=True)
            good = good and difference < LIMIT
    return 0 if good else 1


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main())

"""Compare adapters with PEFT, both ways: its adapters read here, and those written here read by PEFT.

    python -m tests.interop.peft_logits [--write] [--only NAME ...]

--write also writes the outputs of PEFT for tests that run without it. It needs torch, transformers and peft.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from safetensors.numpy import load_file

from tests.interop import ours, theirs
from tests.interop.adapters import ADAPTED, FOLDER, Adapted, value
from tests.interop.cases import inputs
from tests.interop.goldens import kept
from tests.interop.test_peft import export, own, with_random_values

LIMIT = 1e-4


def model(adapted: Adapted, directory: Path) -> peft.PeftModel:
    """Return the model of PEFT with the values of `adapters.value`, and save its adapter."""
    made = peft.get_peft_model(theirs.model(adapted.case), getattr(peft, adapted.kind)(**adapted.options))
    state = {
        name: torch.from_numpy(value(name, tuple(found.shape)))
        for name, found in peft.get_peft_model_state_dict(made).items()
        if ".base_layer." not in name  # it saves tables that have an adapter
    }
    peft.set_peft_model_state_dict(made, state)
    made.eval().save_pretrained(directory)
    return made


def their_logits(adapted: Adapted, made: peft.PeftModel) -> np.ndarray:
    """Return the logits of PEFT at the tokens of the inputs. A decoder of PEFT also has those at virtual tokens."""
    case, given = adapted.case, inputs(adapted.case)
    found = theirs.logits(case, made)
    return ours.real(case, given, found[:, -given["ids"].shape[1] :] if case.kind == "decoder" else found)


def compare(adapted: Adapted, folder: Path) -> tuple[dict[str, object], list[float]]:
    """Return the golden values, and the largest differences of logits: as read, as written back, and as written with other values."""
    case, given = adapted.case, inputs(adapted.case)
    made = model(adapted, folder / "peft")
    theirs.save(theirs.model(case), folder / "base")
    wanted = their_logits(adapted, made)
    differences = []
    read = own(folder / "base", folder / "peft")
    differences.append(np.abs(ours.real(case, given, ours.logits(case, *read[:2], given)) - wanted).max())
    for number, (one, params) in enumerate((read[:2], with_random_values(*read[:2]))):
        out = folder / f"out-{number}"
        export(read[2], one, params, read[3], out)
        back = peft.PeftModel.from_pretrained(theirs.model(case), out).eval()
        expected = ours.real(case, given, ours.logits(case, one, params, given))
        differences.append(np.abs(their_logits(adapted, back) - expected).max())
    saved = load_file(folder / "peft" / "adapter_model.safetensors")
    tensors = {name: found for name, found in saved.items() if ".base_layer." not in name}
    config = json.loads((folder / "peft" / "adapter_config.json").read_text())
    for name in ("target_modules", "feedforward_modules"):
        if name in config:
            config[name] = sorted(config[name])
    golden = {
        "config": config,
        "tensors": {name: list(found.shape) for name, found in sorted(tensors.items())},
        "logits": np.round(kept(case, wanted).astype(float), 5).tolist(),
    }
    return golden, [float(difference) for difference in differences]


def main() -> int:
    """Print the differences of each adapter. Return 1 if one is too large."""
    transformers.logging.set_verbosity_error()
    worst = 0.0
    print("| adapter | read | written back | other values, written |\n| --- | --- | --- | --- |")
    chosen = [adapted for adapted in ADAPTED if "--only" not in sys.argv or adapted.name in sys.argv]
    for adapted in chosen:
        with tempfile.TemporaryDirectory() as folder:
            golden, differences = compare(adapted, Path(folder))
        print(f"| {adapted.name} | {' | '.join(f'{difference:.1e}' for difference in differences)} |", flush=True)
        worst = max(worst, *differences)
        if "--write" in sys.argv:
            FOLDER.mkdir(exist_ok=True)
            lines = ",\n".join(f'"{key}": {json.dumps(found)}' for key, found in golden.items())
            (FOLDER / f"{adapted.name}.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    return 0 if worst < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())

"""Compare vectors of texts with `transformers` and the pooling of `sentence-transformers`.

    python -m tests.interop.sentence [--write]

`--write` writes the vectors for tests that run without these packages.

Each model is imported, and its export is imported by `transformers` again. Needs torch and transformers: see `make test-interop`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from t2t.api.inference import embed
from t2t.launch.main import run
from t2t.train.run import SavedRun
from tests.interop.sentence_files import FILE, MODELS, TEXTS, write


def vectors(directory: Path, texts: Sequence[str] = TEXTS) -> np.ndarray:
    """Return the vectors of texts by `transformers`, as `SentenceTransformer(directory).encode` computes them."""
    settings = json.loads((directory / "sentence_bert_config.json").read_text())
    pooling = json.loads((directory / "1_Pooling" / "config.json").read_text())
    modules = {
        module["type"].rpartition(".")[2]: directory / module["path"]
        for module in json.loads((directory / "modules.json").read_text())
    }
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    loader = transformers.AutoModel
    if json.loads((directory / "config.json").read_text())["model_type"] == "t5":
        loader = transformers.T5EncoderModel
    model = loader.from_pretrained(directory).float().eval()
    texts = [text.strip().lower() if settings["do_lower_case"] else text.strip() for text in texts]
    given = tokenizer(texts, padding=True, truncation=True, max_length=settings["max_seq_length"], return_tensors="pt")
    given.pop("token_type_ids", None)
    with torch.no_grad():
        hidden = model(**given).last_hidden_state
    mask = given["attention_mask"].unsqueeze(-1).float()
    if pooling["pooling_mode_cls_token"]:
        found = hidden[:, 0]
    elif pooling["pooling_mode_max_tokens"]:
        found = hidden.masked_fill(mask == 0, -1e9).max(1).values
    elif pooling.get("pooling_mode_weightedmean_tokens"):
        shares = mask * torch.arange(1, mask.shape[1] + 1)[None, :, None]
        found = (hidden * shares).sum(1) / shares.sum(1)
    else:
        found = (hidden * mask).sum(1) / mask.sum(1)
    if "Dense" in modules:
        found = dense(modules["Dense"], found)
    if "Normalize" in modules:
        found = torch.nn.functional.normalize(found, p=2, dim=1)
    return found.numpy()


def dense(directory: Path, pooled: torch.Tensor) -> torch.Tensor:
    """Return the output of the module Dense."""
    options = json.loads((directory / "config.json").read_text())
    layer = torch.nn.Linear(options["in_features"], options["out_features"], bias=options["bias"])
    stored = load_file(directory / "model.safetensors")
    layer.load_state_dict({name.removeprefix("linear."): value for name, value in stored.items()})
    activation = {"Tanh": torch.nn.Tanh, "Identity": torch.nn.Identity}
    with torch.no_grad():
        return activation[options["activation_function"].rpartition(".")[2]]()(layer(pooled))


def main() -> int:
    """Print the largest difference for each model, as imported and as exported. Return 1 if one is too large."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    made, worst = {}, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            place = Path(folder) / name
            write(name, place / "theirs")
            wanted = vectors(place / "theirs")
            with contextlib.redirect_stdout(sys.stderr):
                run(["import", str(place / "theirs"), "--dir", str(place / "run")])
                run(["export", str(place / "run"), "--format", "sentence-transformers", "--out", str(place / "out")])
            ours = embed(SavedRun.load(place / "run"), TEXTS)
            differences = [float(np.abs(found - wanted).max()) for found in (np.array(ours), vectors(place / "out"))]
            print(f"| {name} | {differences[0]:.1e} | {differences[1]:.1e} |", flush=True)
            worst = max(worst, *differences)
            made[name] = np.round(wanted.astype(float), 6).tolist()
    if "--write" in sys.argv:
        FILE.write_text(
            "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in made.items()) + "\n}\n"
        )
    return 0 if worst < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())

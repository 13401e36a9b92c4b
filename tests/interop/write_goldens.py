"""Write the outputs of `transformers` for the cases, for tests that run without it.

    python -m tests.interop.write_goldens [WORD ...]

Run it in the root of the repository. It needs torch. With words, it writes only the cases whose names contain one of them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import transformers

from t2t.export.tensor_files import TensorFiles
from tests.interop import ours, theirs
from tests.interop.cases import CASES, inputs
from tests.interop.goldens import FOLDER, file_name, kept


def main() -> None:
    """Write one file per case: config.json, names and shapes of the tensors, some logits, and the logits of a classifier of pairs."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    FOLDER.mkdir(exist_ok=True)
    words = sys.argv[1:]
    for path in FOLDER.glob("*.json") if not words else ():
        path.unlink()
    for case in CASES:
        if words and not any(word in case.name for word in words):
            continue
        model = theirs.model(case)
        with tempfile.TemporaryDirectory() as folder:
            theirs.save(model, Path(folder))
            config = json.loads((Path(folder) / "config.json").read_text())
            with TensorFiles(Path(folder)) as files:
                shapes = {name: files.shape(name) for name in files.names}
        logits = ours.real(case, inputs(case), theirs.logits(case, model))
        golden = {"config": config, "tensors": shapes, "logits": np.round(kept(case, logits).astype(float), 5).tolist()}
        if case.paired:
            golden["pairs"] = np.round(theirs.pairs(case, model).astype(float), 5).tolist()
        lines = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in golden.items())
        (FOLDER / file_name(case)).write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
        print(case.name)


if __name__ == "__main__":
    main()

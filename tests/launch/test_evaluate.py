"""`t2t eval` of an imported model: the ids are the run's, whatever vocabulary the task was registered with."""

import json
import math

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from t2t import tasks
from t2t.launch.main import run
from t2t.models import gpt
from t2t.models.families import exportable
from t2t.tasks import metrics, sources
from t2t.train.run import SavedRun
from t2t.types import Batch, Tokens
from tests.interop.cases import weight
from tests.test_tokenizer import byte_level

TEXTS = ["the quick brown fox", "a lazy  dog, again", "naïve café, don't jump over the lazy brown dog 1234 times"]
CHOICES = ["lazy", "quick brown"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with the run of an imported GPT-2, and a task of text and one with choices, over bytes."""
    place = tmp_path_factory.mktemp("evaluate")
    theirs = place / "theirs"
    theirs.mkdir()
    sizes = {"vocab_size": 304, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48, "n_inner": 32}
    (theirs / "config.json").write_text(json.dumps({"model_type": "gpt2", "eos_token_id": 300, **sizes}))
    config = gpt.gpt(num_layers=2, d_model=16, num_heads=2, d_ff=32, vocab_size=304, max_length=48)
    save_file({t.name: weight(t.name, t.shape) for t in exportable(config)[2]}, theirs / "model.safetensors")
    byte_level(theirs / "tokenizer.json")
    (theirs / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    assert run(["import", str(theirs), "--dir", str(place / "run"), "--no-check"]) == 0
    lines = [json.dumps({"text": text, "kind": CHOICES[i % 2]}) for i, text in enumerate(TEXTS)]
    splits = {split: str(place / f"{split}.jsonl") for split in ("train", "validation")}
    (place / "validation.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (place / "train.jsonl").write_text(json.dumps({"text": "again", "kind": "lazy"}), encoding="utf-8")
    files = sources.jsonl(splits)
    tasks.add("evaluate_text", source=files, targets="text", replace=True)
    tasks.add("evaluate_kind", source=files, inputs="text", targets="kind", labels=CHOICES, replace=True)
    tasks.add("evaluate_long", source=files, targets="{text} {text} {text}", metrics=[], replace=True)
    tasks.add(
        "evaluate_answer", source=files, inputs="text", targets="kind", metrics=[metrics.exact_match], replace=True
    )
    return place


def nats(loaded, prompt, ids):
    """Return the summed cross entropy of ids behind a prompt, computed of the logits."""
    row = np.array([[loaded.vocabulary.bos_id, *prompt, *ids]], np.int32)
    positions = np.arange(row.shape[1], dtype=np.int32)[None]
    tokens = Tokens(ids=row, positions=positions, segments=np.ones_like(row))
    batch = Batch(encoder=None, decoder=tokens, targets=row, weights=np.ones(row.shape, np.float32))
    scores = jax.nn.log_softmax(np.asarray(loaded.model.logits(loaded.params(), batch))[0])
    return -sum(float(scores[len(prompt) + i, token]) for i, token in enumerate(ids))


def evaluated(place, *words):
    assert run(["eval", str(place / "run"), *words]) == 0
    return json.loads((place / "run" / "eval" / "0.json").read_text())["tasks"]


@pytest.mark.slow
def test_the_loss_is_that_of_the_runs_own_ids_and_bits_count_raw_bytes(place):
    loaded = SavedRun.load(place / "run")
    found = evaluated(place, "--tasks", "evaluate_text", "--length", "48")["evaluate_text"]["metrics"]
    ids = [[*loaded.vocabulary.encode(text), loaded.vocabulary.eos_id] for text in TEXTS]
    total = sum(nats(loaded, [], one) for one in ids)
    assert found["loss"] == pytest.approx(total / sum(map(len, ids)), rel=1e-5)
    size = sum(len(text.encode()) for text in TEXTS)
    assert found["bits_per_byte"] == pytest.approx(total / math.log(2) / size, rel=1e-5)


def test_a_text_that_was_cut_counts_the_bytes_that_are_left(place):
    loaded = SavedRun.load(place / "run")
    found = evaluated(place, "--tasks", "evaluate_text", "--length", "4", "--examples", "1")["evaluate_text"]
    ids = loaded.vocabulary.encode(TEXTS[0])[:4]
    assert found["trimmed"] == 1
    size = len(loaded.vocabulary.decode(ids).encode())
    assert found["metrics"]["bits_per_byte"] == pytest.approx(nats(loaded, [], ids) / math.log(2) / size, rel=1e-5)


def test_choices_and_examples_in_the_prompt_have_the_runs_ids_too(place):
    loaded, vocabulary = SavedRun.load(place / "run"), SavedRun.load(place / "run").vocabulary
    end = vocabulary.eos_id
    evaluated(place, "--tasks", "evaluate_kind", "--examples", "1")
    (row,) = map(json.loads, (place / "run/eval/0/evaluate_kind.jsonl").read_text(encoding="utf-8").splitlines())
    for choice, score in row["choice_scores"].items():
        wanted = -nats(loaded, [*vocabulary.encode(TEXTS[0]), end], [*vocabulary.encode(choice), end])
        assert score == pytest.approx(wanted, rel=1e-5)
    evaluated(place, "--tasks", "evaluate_kind", "--examples", "1", "--shots", "1", "--as-text", "--length", "48")
    written = (place / "run/eval/0/evaluate_kind@1-shot-text.jsonl").read_text(encoding="utf-8")
    (row,) = map(json.loads, written.splitlines())
    for choice, score in row["choice_scores"].items():
        wanted = -nats(loaded, vocabulary.encode(row["prompt"]), [*vocabulary.encode(choice), end])
        assert score == pytest.approx(wanted, rel=1e-5)


def test_answers_have_no_bits_per_byte(place):
    assert "bits_per_byte" not in evaluated(place, "--tasks", "evaluate_answer")["evaluate_answer"]["metrics"]


def test_a_longer_row_holds_what_training_would_cut(place):
    shorter, longer = (
        evaluated(place, "--tasks", "evaluate_long", "--length", n)["evaluate_long"]["trimmed"] for n in ("12", "48")
    )
    assert shorter == 3
    assert longer < shorter


@pytest.mark.parametrize(("length", "message"), [("49", "48 learned positions. Nearest: 48"), ("1", "Nearest: 2")])
def test_a_length_that_cannot_be_takes_one_line(length, message, place, capsys):
    assert run(["eval", str(place / "run"), "--length", length]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1

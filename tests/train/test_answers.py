"""Encoders learn labels, tags and spans; evaluation, inference and what is told of misfits go by the same heads."""

import functools
import io
import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

from t2t import tasks
from t2t.data.answers import check_model
from t2t.data.config import Data
from t2t.data.pipeline import batches, task_vocabulary
from t2t.data.registry import converter_of, provider_of
from t2t.decode import best_spans, label_texts
from t2t.errors import UserError
from t2t.launch import infer, parse
from t2t.models import bert
from t2t.nn.model import Model
from t2t.objectives import CrossEntropy
from t2t.tasks.generated_answers import DIVISORS, TAGS
from t2t.tasks.sources import jsonl
from t2t.train.evaluation import Evaluation, evaluate
from t2t.train.run import SavedRun
from t2t.train.state import create_state
from t2t.train.step import make_step
from t2t.types import Batch, Tokens
from t2t.vocabularies import Bytes, Vocabulary
from tests.models.tiny import config, logits_of, params_of, quick_jit

CASES = {
    "parity_label": ({"head": "label", "labels": ("even", "odd"), "pooler": True}, 16, 120, 8, 7e-3),
    "entity_tags": ({"head": "tags", "labels": TAGS}, 48, 220, 8, 7e-3),
    "entity_span": ({"head": "span"}, 48, 220, 16, 5e-3),
    "divisors_labels": ({"head": "labels", "labels": tuple(DIVISORS), "pooler": True}, 16, 160, 8, 7e-3),
    "words_number": ({"head": "numbers"}, 48, 220, 8, 5e-3),
}


def encoder(**head):
    sizes = {"num_layers": 2, "d_model": 32, "num_heads": 4, "d_ff": 64, "vocab_size": 384}
    return bert.bert(
        **sizes, dropout=0.0, norm_place="pre", final_norm=True, positions="relative", init_std=0.1, **head
    )


@functools.cache
def learnt(task: str):
    """Return a model, its parameters after some seconds of training on packed rows, and the data."""
    head, length, steps, rows_each, peak = CASES[task]
    model = encoder(**head).build()
    data = Data(task=task, inputs_length=length, batch_size=rows_each, shards=2, seed=0)
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, 20, steps, 2e-4)
    transform = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98))
    state = quick_jit(lambda: create_state(model, transform, 0))()
    step = quick_jit(make_step(model, transform, CrossEntropy(), learning_rate=schedule), donate_argnums=0)
    rows = batches(data, "encoder")
    seen = [next(rows) for _ in range(80)]
    rows.close()
    for number in range(steps):
        state, _ = step(state, seen[number % len(seen)])
    return model, state.params, data


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "metric", "least"),
    [
        ("parity_label", "accuracy", 0.9),
        ("entity_tags", "f1", 0.9),
        ("entity_span", "em", 90),
        ("divisors_labels", "micro_f1", 0.9),
        ("words_number", "pearson", 0.9),
    ],
)
def test_what_is_learnt_is_what_evaluation_finds(task, metric, least):
    model, params, data = learnt(task)
    (result,) = evaluate(model, params, Evaluation(examples=64), data)
    assert result.metrics[metric] > least
    if task == "entity_span":
        row = result.predictions[0]
        assert row["targets"] in row["second"]
        assert row["inputs"] in ("number?", "name?")
    right = [row["prediction"] == row["targets"] for row in result.predictions]
    assert (
        "exact_match" not in result.metrics
        if task == "words_number"
        else result.metrics["exact_match"] == pytest.approx(np.mean(right))
    )


@dataclass
class Loaded:
    """A run as `t2t infer` has it."""

    model: Model
    weights: dict
    directory: str = "RUN"
    vocabulary: Vocabulary = Bytes()

    @property
    def experiment(self):
        return SimpleNamespace(model=self.model.config, data=SimpleNamespace(targets_length=8))

    def params(self):
        return self.weights


@pytest.fixture
def ask(monkeypatch, capsys):
    def use(task, *words, learn=True, stdin=None):
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        model = encoder(**CASES[task][0]).build()
        run = Loaded(*learnt(task)[:2]) if learn else Loaded(model, params_of(model.config)[1])
        monkeypatch.setattr(
            SavedRun, "load", classmethod(lambda cls, directory, step=None, plain_weights=False, quantize=None: run)
        )
        parse.call(infer.command, ["RUN", *words], prog="t2t infer")
        return capsys.readouterr().out

    return use


@pytest.mark.slow
def test_infer_gives_labels_tags_and_spans(ask, tmp_path):
    label = ask("parity_label", "--text", "1234", "--text", "77")
    assert [line.split()[0] for line in label.splitlines()] == ["even", "odd"]
    tagged = ask("entity_tags", "--text", "ape 31 4 fog Fox Hen sea")
    assert tagged == "ape/O 31/B-NUMBER 4/I-NUMBER fog/O Fox/B-NAME Hen/I-NAME sea/O\n"
    text = "ape 31 4 fog Fox Hen sea"
    span = ask("entity_span", "--text", "number?", "--second", text, "--text", "name?", "--second", text)
    assert [line.rpartition("  ")[0] for line in span.splitlines()] == ["31 4", "Fox Hen"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": 7, "inputs": "name?", "second": text}) + "\n")
    (row,) = map(json.loads, ask("entity_span", "--input", str(rows), "--max-length", "30").splitlines())
    assert (row["id"], row["prediction"], row["word"]) == (7, "Fox Hen", 4)
    assert 0.3 < row["probability"] <= 1


def answers_of(model, params, texts):
    """Return the logits of each text at its first token, by themselves."""
    run = quick_jit(model.logits)
    found = []
    for text in texts:
        ids = np.array([[*Bytes().encode(text), 1]], np.int32)
        ones = np.ones_like(ids)
        tokens = Tokens(ids=ids, positions=np.arange(ids.size, dtype=np.int32)[None], segments=ones)
        found.append(np.asarray(run(params, Batch(tokens, None, ids, ones.astype(np.float32))))[0, 0])
    return np.array(found, np.float64)


def test_infer_gives_each_label_with_its_probability(ask):
    model = encoder(**CASES["divisors_labels"][0]).build()
    texts = ("1234", "9876")
    logits = answers_of(model, params_of(model.config)[1], texts)
    chances = 1 / (1 + np.exp(-logits))
    asked = [word for text in texts for word in ("--text", text)]
    for line, row in zip(ask("divisors_labels", *asked, learn=False).splitlines(), chances, strict=True):
        likely = {label: chance for label, chance in zip(DIVISORS, row, strict=True) if chance >= 0.5}
        said = "    ".join(f"{label}  {chance:.3f}" for label, chance in likely.items())
        assert line == (said or "(no label)")
    row = json.loads(ask("divisors_labels", "--input", "-", learn=False, stdin=texts[0]))
    assert row["prediction"] == [label for label, chance in zip(DIVISORS, chances[0], strict=True) if chance >= 0.5]
    np.testing.assert_allclose(list(row["probabilities"].values()), chances[0], rtol=1e-5)


def test_infer_gives_numbers(ask):
    model = encoder(**CASES["words_number"][0]).build()
    (number,) = answers_of(model, params_of(model.config)[1], ["a b"])[0]
    assert float(ask("words_number", "--text", "a b", learn=False)) == pytest.approx(number, rel=1e-4)
    row = json.loads(ask("words_number", "--input", "-", learn=False, stdin="a b"))
    assert row["prediction"] == pytest.approx(number, rel=1e-4)


def test_evaluation_of_labels_and_numbers_is_that_of_each_text_by_itself():
    for task in ("divisors_labels", "words_number"):
        model = encoder(**CASES[task][0]).build()
        params = params_of(model.config)[1]
        data = Data(task=task, inputs_length=48, seed=0)
        (result,) = evaluate(model, params, Evaluation(examples=6, batch_size=4), data)
        logits = answers_of(model, params, [row["inputs"] for row in result.predictions])
        if task == "words_number":
            wanted = np.array([[row["targets"]] for row in result.predictions])
            assert result.metrics["loss"] == pytest.approx(np.square(logits - wanted).mean(), rel=1e-4)
            assert result.metrics["mse"] == pytest.approx(result.metrics["loss"])
            assert {"pearson", "spearman"} < set(result.metrics)
            continue
        for row, scores in zip(result.predictions, logits, strict=True):
            assert row["targets"] == [name for name, by in DIVISORS.items() if int(row["inputs"]) % by == 0]
            assert row["prediction"] == [name for name, score in zip(DIVISORS, scores, strict=True) if score >= 0]
        wanted = np.array([[name in row["targets"] for name in DIVISORS] for row in result.predictions])
        chosen = 1 / (1 + np.exp(np.where(wanted, -logits, logits)))
        assert result.metrics["loss"] == pytest.approx(-np.log(chosen).mean(), rel=1e-4)
        assert {"micro_f1", "macro_f1", "exact_match"} < set(result.metrics)


@pytest.mark.parametrize(
    ("task", "words", "said"),
    [
        ("entity_span", ["--text", "name?"], "a question .* and the text with the answer"),
        ("entity_tags", ["--text", "a", "--second", "b"], "--second b: .* RUN tags words"),
        ("parity_label", ["--text", "a", "--text", "b", "--second", "c"], "--second is given 1 times and --text 2"),
        ("parity_label", ["--text", "1", "--top", "3"], "--top 3: this option is for encoders that fill in masks"),
        ("parity_label", ["--text", "1", "--max-length", "3"], "cannot generate: it labels texts"),
        ("parity_label", ["--text", "1", "--normalise"], "Nearest: --embed"),
    ],
)
def test_infer_refuses_what_a_head_has_no_use_for(ask, task, words, said):
    with pytest.raises(UserError, match=said):
        ask(task, *words, learn=False)


@pytest.mark.slow
def test_embeddings_are_the_encoders_output(ask):
    """Mean over a text's own tokens, or its first, whatever stands beside it in the batch."""
    model, params, _ = learnt("parity_label")
    texts = ["12", "a much longer text than it"]
    run = quick_jit(model.hidden)
    ids = np.array([[*Bytes().encode(texts[0]), 1]], np.int32)
    ones = np.ones_like(ids)
    tokens = Tokens(ids=ids, positions=np.arange(ids.size, dtype=np.int32)[None], segments=ones)
    hidden = np.asarray(run(params, Batch(tokens, None, ids, ones.astype(np.float32))))[0]
    for pooling in ("mean", "first"):
        said = ask("parity_label", "--embed", pooling, "--normalise", "--text", texts[0], "--text", texts[1])
        wanted = hidden.mean(0) if pooling == "mean" else hidden[0]
        found = [np.array(json.loads(line)["embedding"]) for line in said.splitlines()]
        np.testing.assert_allclose(found[0] @ wanted / np.linalg.norm(wanted), 1.0, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0)


def test_the_best_span_neither_ends_before_it_begins_nor_is_too_long():
    random = np.random.default_rng(0)
    logits = random.normal(size=(20, 9, 9)).astype(np.float32) * 3
    scores = np.asarray(jax.nn.log_softmax(logits[:, :2]))
    for longest in (None, 2):
        found = quick_jit(best_spans, static_argnums=1)(logits, longest)
        for row in range(20):
            legal = {
                (a, b): scores[row, 0, a] + scores[row, 1, b]
                for a in range(9)
                for b in range(a, 9)
                if longest is None or b - a < longest
            }
            best = max(legal, key=legal.get)
            assert (found.first[row], found.last[row]) == best
            np.testing.assert_allclose(found.probability[row], np.exp(legal[best]), rtol=1e-5)


def test_types_reach_the_rows_packed_and_the_labels_at_inference():
    data = Data(task="reversed_pair_label", inputs_length=64, batch_size=4, shards=2, seed=0)
    rows = batches(data, "encoder")
    batch = next(rows)
    rows.close()
    tokens = batch.encoder
    assert (tokens.segments.max(axis=1) == 2).all()
    for row in range(4):
        for segment in (1, 2):
            own = tokens.segments[row] == segment
            ids, types = tokens.ids[row][own], tokens.types[row][own]
            ends = np.flatnonzero(ids == 1)
            assert types.tolist() == [0] * (ends[0] + 1) + [1] * (ends[1] - ends[0])
    assert not tokens.types[tokens.segments == 0].any()
    settings = config("bert", vocab_size=384, head="label", labels=("no", "yes"))
    model, params = params_of(settings)
    first = tokens.ids[:1, :24]
    alone = Tokens(
        ids=first, positions=tokens.positions[:1, :24], segments=np.ones_like(first), types=tokens.types[:1, :24]
    )
    logits = logits_of(settings)(Batch(alone, None, first, np.ones(first.shape, np.float32)))
    wanted = jax.nn.softmax(logits[0, 0])
    text, second = (Bytes().decode(first[0][tokens.types[0, :24] == kind]) for kind in (0, 1))
    (label,) = label_texts(model, params, Bytes(), [(text, second)])
    np.testing.assert_allclose(label.probabilities, wanted, rtol=1e-4)


def test_a_task_and_a_model_that_do_not_belong_together_are_told():
    pair = Data(task="reversed_pair_label")
    labels = ("no", "yes")
    check_model(pair, encoder(head="label", labels=labels))
    for data, own, said in (
        (
            pair,
            encoder(),
            r"predicts a label for each text, this one .* tokens.*Nearest: --model.head label --model.labels no yes",
        ),
        (pair, encoder(head="tags", labels=labels), "a label for each text, this one predicts a label for each word"),
        (
            pair,
            encoder(head="label", labels=("yes", "no", "?")),
            r"has 2 labels: no, yes; the model has 3 labels: yes, no, \?",
        ),
        (pair, replace(encoder(head="label", labels=labels), types=1), "gives token types 0 and 1, the model has 1"),
        (Data(task="entity_span"), encoder(head="label", labels=labels), "first and last token of a span"),
        (Data(task="parity_fill_mask"), encoder(head="span"), "Nearest: --model.head tokens"),
        (
            Data(task="divisors_labels"),
            encoder(head="label", labels=labels),
            "predicts any number of labels for each text.*Nearest: --model.head labels --model.labels two five ten",
        ),
        (
            Data(task="words_number"),
            encoder(head="numbers", labels=("a", "b")),
            "has 1 numbers for each text, the model predicts 2",
        ),
    ):
        with pytest.raises(UserError, match=said):
            check_model(data, own)
    with pytest.raises(UserError, match=r"--model.head label"):
        evaluate(encoder().build(), {}, Evaluation(), pair)


def test_a_task_of_ones_own_from_vectors_of_words_and_numbers(tmp_path):
    path = tmp_path / "words.jsonl"
    path.write_text(json.dumps({"words": "Ada met Bob", "tags": "B-PER O B-PER", "said": "who", "by": "Bob"}) + "\n")
    source = jsonl({"train": str(path)})
    task = tasks.add_tagging("own_tags", source=source, words="words", tags="tags", labels=("O", "B-PER"), replace=True)
    span = tasks.add_span_extraction(
        "own_span", source=source, question="said", text="{words}!", answer="by", replace=True
    )
    for made, wanted in ((task, [1, 0, 1]), (span, [11, 15])):
        data = Data(task=made.name, inputs_length=32)
        assert task_vocabulary(data) == Bytes()
        assert converter_of(data, "encoder", provider_of(data)).has_types == (made is span)
        (example,) = made.get_dataset({"inputs": 32}, "train", shuffle=False).as_numpy_iterator()
        assert example["targets"][example["weights"] > 0].tolist() == wanted

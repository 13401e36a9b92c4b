"""Answers that are not told are left out of every metric and counted; spans are told as the text has them."""

import json

import numpy as np
import pytest

from t2t import tasks
from t2t.data.config import Data
from t2t.decode import span_texts, words_between
from t2t.models import bert
from t2t.tasks import metrics, objectives, sources
from t2t.train import evaluation as evaluating
from t2t.train.evaluation import Evaluation, evaluate, write
from t2t.train.few_shot import FewShot
from t2t.vocabularies import Bytes, WordPiece
from tests.decode.toy import ToyConfig, ToyEncoderDecoderConfig, make
from tests.models.tiny import params_of

LABELS = ["no", "yes"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "brown", "fox", "who", "?"]


def source(tmp_path, labels):
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sources.jsonl({"train": str(tmp_path / "a.jsonl"), "test": str(tmp_path / "a.jsonl")}["test"])


def encoder(**head):
    return bert.bert(
        num_layers=1, d_model=16, num_heads=2, d_ff=16, vocab_size=384, dropout=0.0, positions="relative", **head
    )


def measured(name, model, params, caplog=None, **changes):
    data = Data(task=name, inputs_length=24, targets_length=8, batch_size=4)
    (result,) = evaluate(model, params, Evaluation(split="train", batch_size=4, **changes), data)
    return result


def labelled(tmp_path, labels):
    tasks.add_classification(
        "ha_label", source=source(tmp_path, labels), inputs="text", targets="label", labels=LABELS, replace=True
    )
    config = encoder(head="label", labels=tuple(LABELS))
    model, params = config.build(), params_of(config)[1]
    return measured("ha_label", model, params)


def test_a_label_head_is_measured_on_the_labels_that_are_told(tmp_path, caplog):
    known = labelled(tmp_path, [0, 1, 1])
    some = labelled(tmp_path, [0, 1, 1, -1, -1, -1, -1])
    assert (some.examples, some.unanswered, known.unanswered) == (7, 4, 0)
    assert some.metrics == pytest.approx(known.metrics)
    assert some.metrics["accuracy"] == some.metrics["token_accuracy"] == some.metrics["exact_match"]
    assert "4 of 7 examples have no known answer and are not in the metrics" in caplog.text
    assert [row["prediction"] in LABELS for row in some.predictions] == [True] * 7
    assert ["targets" in row for row in some.predictions] == [True] * 3 + [False] * 4
    assert ["correct" in row for row in some.predictions] == [True] * 3 + [False] * 4


def test_a_split_without_any_label_has_no_metric(tmp_path, caplog):
    result = labelled(tmp_path, [-1] * 5)
    assert (result.metrics, result.examples, result.unanswered) == ({}, 5, 5)
    assert len(result.predictions) == 5
    assert "none of the 5 examples of split 'train' has a known answer" in caplog.text
    write(tmp_path, 3, [result])
    told = json.loads((tmp_path / "eval" / "3.json").read_text())["tasks"]["ha_label"]
    assert (told["unanswered"], told["metrics"]) == (5, {})


@pytest.mark.parametrize("hidden", [0, 4])
def test_generated_and_ranked_answers_are_measured_on_the_labels_that_are_told(hidden, tmp_path):
    model, params = make(ToyEncoderDecoderConfig(vocab_size=384, sharpness=1.0))

    def of(labels):
        scores = [metrics.accuracy, metrics.exact_match]
        given = source(tmp_path, labels)
        tasks.add("ha_text", source=given, inputs="text", targets="label", labels=LABELS, metrics=scores, replace=True)
        return measured("ha_text", model, params, few_shot=FewShot(calibration=("length",)))

    known, some, none = of([0, 1, 1]), of([0, 1, 1] + [-1] * hidden), of([-1] * 3)
    assert some.metrics == pytest.approx(known.metrics)
    assert {"loss", "accuracy", "rank_accuracy", "rank_accuracy_length"} <= set(some.metrics)
    assert some.unanswered == hidden
    assert none.metrics == {}
    assert [row["choice"] in LABELS for row in none.predictions] == [True] * 3
    assert not any("targets" in row or "correct" in row for row in none.predictions)


def test_unk_that_is_a_label_is_told(tmp_path):
    model, params = make(ToyEncoderDecoderConfig(vocab_size=384, sharpness=1.0))
    labels = ["<unk>", "yes"]
    tasks.add("ha_unk", source=source(tmp_path, [0, 1]), inputs="text", targets="label", labels=labels, replace=True)
    assert measured("ha_unk", model, params).unanswered == 0


def test_a_row_of_nothing_to_predict_is_not_right(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n{"text": "abcdefgh"}\n')
    tasks.add(
        "ha_mask",
        source=sources.jsonl(tmp_path / "a.jsonl"),
        targets="text",
        objective=lambda ds, output_features, sequence_length: ds.map(
            lambda x: {"inputs": x["targets"], "targets": x["targets"], "weights": x["targets"] * 0 + 1}
        ),
        features=objectives.encoder_features,
        replace=True,
    )
    config = encoder()
    result = measured("ha_mask", config.build(), params_of(config)[1])
    assert (result.examples, result.unanswered) == (2, 1)
    assert result.metrics["exact_match"] == 0.0


def test_words_between_tokens_are_told_as_the_text_has_them():
    text = "  The  Quick\nBrown\tFox "
    starts = [3, 4, 6, 6, 8]  # "Brown" has no token
    assert words_between(text, starts, 4, 7) == ("Quick\nBrown\tFox", 1, 7)
    assert words_between(text, starts, 5, 5) == ("Quick", 1, 7)
    assert words_between(text, starts, 3, 3) == ("The", 0, 2)
    for first, last in ((0, 0), (2, 4), (7, 8)):
        assert words_between(text, starts, first, last) == ("", -1, -1)


def test_a_span_keeps_the_case_and_spaces_of_its_text(tmp_path, monkeypatch):
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    vocabulary = WordPiece(path=str(tmp_path / "vocab.txt"), lowercase=True)
    text = "The  Quick\nBrown Fox"
    rows = [{"q": "who?", "c": text, "a": "Quick\nBrown"}, {"q": "who?", "c": text, "a": ""}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks.add_span_extraction(
        "ha_span",
        source=sources.jsonl(tmp_path / "a.jsonl"),
        question="q",
        text="c",
        answer="a",
        vocabulary=vocabulary,
        metrics=[metrics.exact_match],
        types=False,
        replace=True,
    )
    config = bert.bert(
        num_layers=1, d_model=16, num_heads=2, d_ff=16, vocab_size=16, dropout=0.0, positions="relative", head="span"
    )
    model, params = config.build(), params_of(config)[1]

    def right(self, model, params, batch, rows):
        self.scores += [0.0] * rows
        self.wanted += [list(ids[:2]) for ids in np.asarray(batch.targets)[:rows].tolist()]
        self.predicted += [list(ids) for ids in self.wanted]
        self.first += [0] * rows

    monkeypatch.setattr(evaluating.TeacherForced, "add", right)
    (result,) = evaluate(
        model,
        params,
        Evaluation(split="train"),
        Data(task="ha_span", inputs_length=16, batch_size=4, vocabulary=vocabulary),
    )
    assert [row["prediction"] for row in result.predictions] == ["Quick\nBrown", ""]
    (span,) = span_texts(model, params, vocabulary, [("who?", text)])
    assert span.text == text[span.start : span.start + len(span.text)] if span.text else span.start == -1


def test_an_answer_in_text_ends_where_the_next_example_would_begin(tmp_path, monkeypatch):
    rows = "".join(json.dumps({"text": f"t {i}", "label": i % 2}) + "\n" for i in range(6))
    (tmp_path / "a.jsonl").write_text(rows)
    tasks.add(
        "ha_shots",
        source=sources.jsonl(tmp_path / "a.jsonl"),
        inputs="text",
        targets="label",
        labels=LABELS,
        metrics=[metrics.accuracy],
        replace=True,
    )
    model, params = make(ToyConfig(vocab_size=384, sharpness=1.0))
    made = evaluating.generate_many

    def goes_on(*args, **options):
        outputs = made(*args, **options)
        return [[best[0]._replace(ids=Bytes().encode(f"{LABELS[i % 2]}\n\nt 9\nno"))] for i, best in enumerate(outputs)]

    monkeypatch.setattr(evaluating, "generate_many", goes_on)
    for few_shot, accuracy in (
        (FewShot(shots=1, as_text=True), 1.0),
        (FewShot(as_text=True), 1.0),
        (FewShot(shots=1), 0.0),  # an EOS would have ended it
    ):
        data = Data(task="ha_shots", inputs_length=40, targets_length=8, batch_size=4)
        (result,) = evaluate(model, params, Evaluation(split="train", few_shot=few_shot), data)
        assert result.metrics["accuracy"] == accuracy

import functools
import json
import math

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t2t.data.config import Data
from t2t.decode import Beam, generate_many, score_many
from t2t.errors import UserError
from t2t.train.evaluation import EvalResult, Evaluation, Evaluator, evaluate, write
from t2t.vocabularies import Bytes
from tests.decode.toy import ToyConfig, ToyEncoderConfig, ToyEncoderDecoderConfig, make, next_log_probs

BYTES = Bytes()
EXAMPLES = {
    "validation": [("ab", "no"), ("abc", "yes"), ("", "no"), ("bbbb", "maybe"), ("a", "yes")],
    "train": [("a", "b")],
}
LABELS = ("yes", "no")


def exact_match(targets, predictions):
    return {"exact_match": float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))}


def seen_texts(targets, predictions, *, log):
    log.append((targets, predictions))
    return {"first": seqio.metrics.Scalar(0.5), "words": seqio.metrics.Text("no number")}


def likelihood(targets, scores, *, log=None):
    if log is not None:
        log.append((targets, scores))
    return {"mean_score": float(np.mean(scores))}


def rank_classification(targets, scores, *, log):
    log.append((targets, scores))
    return {"ranked": 1.0}


def with_aux(targets, predictions, aux_values):
    return {"mean_confidence": float(np.mean(aux_values["scores"]))}


def choices_for(dataset):
    return dataset.map(lambda example: {**example, "choices": tf.constant(LABELS)})


def weights_for(dataset):
    def one(example):
        places = tf.range(tf.size(example["targets"]))
        masked = tf.pad(example["targets"][:-1], [[0, 1]], constant_values=300)
        return {**example, "inputs": masked, "weights": tf.cast(places % 2, tf.int32)}

    return dataset.map(one)


def register(name, *, examples=EXAMPLES, metrics=(), extra=(), features=("inputs", "targets"), postprocess=None):
    def read(split, shuffle_files=False, seed=None):
        rows = examples[split]
        return tf.data.Dataset.from_tensor_slices({"inputs": [a for a, _ in rows], "targets": [b for _, b in rows]})

    feature = seqio.Feature(seqio.ByteVocabulary(extra_ids=100), add_eos=True)
    weight = seqio.Feature(seqio.PassThroughVocabulary(size=2), add_eos=False)
    offered = {f: weight if f == "weights" else feature for f in features}
    tokenized = {"inputs": feature, "targets": feature}
    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(read, splits=list(examples), num_input_examples={k: len(v) for k, v in examples.items()}),
        preprocessors=[
            functools.partial(seqio.preprocessors.tokenize, output_features=tokenized),
            functools.partial(seqio.preprocessors.append_eos, output_features=tokenized),
            *extra,
        ],
        output_features=offered,
        metric_fns=list(metrics),
        postprocess_fn=postprocess,
    )  # fmt: skip
    return name


def encoder_decoder():
    return make(ToyEncoderDecoderConfig(vocab_size=384, sharpness=1.0))


def data(task, **changes):
    return Data(task=task, **{"inputs_length": 8, "targets_length": 8, "batch_size": 8, **changes})


def evaluation(**changes):
    return Evaluation(**{"batch_size": 2, "samples": 0, **changes})


def ids(text):
    return [*BYTES.encode(text), 1]


def expected_scores(model, params, pairs=EXAMPLES["validation"]):
    return [
        sum(float(next_log_probs(model, params, [0, *ids(b)[:i]], ids(a))[t]) for i, t in enumerate(ids(b)))
        for a, b in pairs
    ]


def test_loss_perplexity_and_accuracy_are_those_of_every_example_once():
    task = register("eval_plain")
    model, params = encoder_decoder()
    (result,) = evaluate(model, params, evaluation(), data(task))
    scores = expected_scores(model, params)
    tokens = sum(len(ids(b)) for _, b in EXAMPLES["validation"])
    assert (result.task, result.split, result.examples, result.trimmed) == (task, "validation", 5, 0)
    np.testing.assert_allclose(result.metrics["loss"], -sum(scores) / tokens, rtol=1e-5)
    np.testing.assert_allclose(result.metrics["perplexity"], math.exp(result.metrics["loss"]))
    right = sum(
        int(np.argmax(next_log_probs(model, params, [0, *ids(b)[:i]], ids(a)))) == t
        for a, b in EXAMPLES["validation"]
        for i, t in enumerate(ids(b))
    )
    np.testing.assert_allclose(result.metrics["token_accuracy"], right / tokens)
    assert set(result.metrics) == {"loss", "perplexity", "token_accuracy", "unigram_loss"}
    assert result.predictions == []


def test_results_do_not_depend_on_the_batch_size_and_only_the_limit_is_read():
    task = register("eval_sizes")
    model, params = encoder_decoder()
    found = [evaluate(model, params, evaluation(batch_size=n), data(task))[0] for n in (1, 8)]
    np.testing.assert_allclose(found[0].metrics["loss"], found[1].metrics["loss"], rtol=1e-6)
    (limited,) = evaluate(model, params, evaluation(examples=2), data(task))
    scores = expected_scores(model, params)[:2]
    assert limited.examples == 2
    np.testing.assert_allclose(limited.metrics["loss"], -sum(scores) / 7, rtol=1e-5)


def test_metric_functions_get_postprocessed_texts_and_scores():
    texts, scored = [], []

    def postprocess(text, example, is_target):
        assert example["inputs_pretokenized"] is not None
        return ("target" if is_target else "prediction", text)

    task = register(
        "eval_metrics",
        metrics=[functools.partial(seen_texts, log=texts), functools.partial(likelihood, log=scored), with_aux],
        postprocess=postprocess,
    )
    model, params = encoder_decoder()
    decoding = Beam(size=2)
    (result,) = evaluate(model, params, evaluation(decoding=decoding), data(task))
    made = generate_many(
        model, params, [ids(a) for a, _ in EXAMPLES["validation"]], decoding, length=8, eos_id=1, vocab_size=BYTES.size
    )
    predictions = [BYTES.decode(best[0].ids) for best in made]
    ((targets_seen, predictions_seen),) = texts
    assert targets_seen == [("target", b) for _, b in EXAMPLES["validation"]]
    assert predictions_seen == [("prediction", text) for text in predictions]
    ((targets_scored, scores),) = scored
    assert targets_scored == targets_seen
    np.testing.assert_allclose(scores, expected_scores(model, params), rtol=1e-5)
    np.testing.assert_allclose(result.metrics["mean_score"], np.mean(scores))
    np.testing.assert_allclose(result.metrics["mean_confidence"], np.mean([best[0].score for best in made]), rtol=1e-5)
    assert result.metrics["first"] == 0.5
    assert "words" not in result.metrics
    assert [row["inputs"] for row in result.predictions] == [a for a, _ in EXAMPLES["validation"]]
    assert [row["targets"] for row in result.predictions] == [b for _, b in EXAMPLES["validation"]]
    assert [row["prediction"] for row in result.predictions] == predictions


def test_choices_are_ranked_by_log_likelihood():
    seen = []
    task = register(
        "eval_choices", extra=[choices_for], metrics=[functools.partial(rank_classification, log=seen), likelihood]
    )
    model, params = encoder_decoder()
    (result,) = evaluate(model, params, evaluation(), data(task))
    by_choice = [
        [expected_scores(model, params, [(a, choice)])[0] for choice in LABELS] for a, _ in EXAMPLES["validation"]
    ]
    best = [LABELS[int(np.argmax(values))] for values in by_choice]
    right = [choice == b for choice, (_, b) in zip(best, EXAMPLES["validation"], strict=True)]
    np.testing.assert_allclose(result.metrics["rank_accuracy"], np.mean(right))
    assert result.metrics["ranked"] == 1.0
    ((targets, scores),) = seen
    assert targets == [[1], [0], [1], [-1], [0]]  # "maybe" is none of the choices
    np.testing.assert_allclose(scores, by_choice, rtol=1e-5)
    np.testing.assert_allclose(result.metrics["mean_score"], np.mean(expected_scores(model, params)), rtol=1e-5)
    assert [row["choice"] for row in result.predictions] == best


def test_decoders_see_the_inputs_and_are_scored_on_targets():
    task = register("eval_decoder", metrics=[exact_match])
    model, params = make(ToyConfig(vocab_size=384, sharpness=1.0))
    (result,) = evaluate(model, params, evaluation(), data(task, loss_on_inputs=1.0))
    pairs = EXAMPLES["validation"]
    scores = score_many(model, params, [ids(a) for a, _ in pairs], [ids(b) for _, b in pairs])
    np.testing.assert_allclose(result.metrics["loss"], -sum(scores) / sum(len(ids(b)) for _, b in pairs), rtol=1e-5)
    made = generate_many(model, params, [ids(a) for a, _ in pairs], Evaluation().decoding, length=8, eos_id=1, vocab_size=BYTES.size)  # fmt: skip
    assert [row["prediction"] for row in result.predictions] == [BYTES.decode(best[0].ids) for best in made]
    assert "exact_match" in result.metrics


def test_encoders_predict_in_place():
    task = register(
        "eval_encoder", extra=[weights_for], features=("inputs", "targets", "weights"), metrics=[functools.partial(likelihood)]
    )  # fmt: skip
    model, params = make(ToyEncoderConfig(vocab_size=384, sharpness=1.0))
    (result,) = evaluate(model, params, evaluation(), data(task))
    embedding, out = np.asarray(params["embedding"]), np.asarray(params["out"])
    right, rows, total = [], [], 0.0
    for _, b in EXAMPLES["validation"]:
        targets = ids(b)
        inputs = [*targets[:-1], 300]
        logits = np.tanh(embedding[inputs] + embedding[inputs].mean(0)) @ out
        log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        there = range(1, len(targets), 2)
        hits = [int(np.argmax(log_probs[i])) == targets[i] for i in there]
        total += sum(log_probs[i, targets[i]] for i in there)
        right += hits
        rows.append(all(hits))
    np.testing.assert_allclose(result.metrics["token_accuracy"], np.mean(right))
    np.testing.assert_allclose(result.metrics["exact_match"], np.mean(rows))
    np.testing.assert_allclose(result.metrics["loss"], -total / len(right), rtol=1e-5)
    assert [row["targets"] for row in result.predictions] == ["o", "e", "o", "ab", "e"]
    assert [row["correct"] for row in result.predictions] == rows


def test_mixtures_are_evaluated_task_by_task_and_nothing_is_compiled_twice(caplog):
    first, second = register("eval_first"), register("eval_second")
    third = register("eval_third", examples={"train": [("a", "b")]})
    seqio.MixtureRegistry.add("eval_mixture", [(first, 1), (second, 1), (third, 1)])
    model, params = encoder_decoder()
    evaluator = Evaluator(model, evaluation(tasks=("eval_mixture", first)), data("eval_mixture"))
    assert "eval_third" in caplog.text
    before = evaluator.evaluate(params)
    assert [result.task for result in before] == [first, second]
    traced = model.traces
    better = {**params, "out": params["out"] * 0.1}
    after = evaluator.evaluate(better)
    assert model.traces == traced
    assert after[0].metrics["loss"] != before[0].metrics["loss"]
    assert after[0].examples == 5


def test_samples_are_generated_for_people_where_no_metric_wants_any():
    task = register("eval_samples")
    model, params = encoder_decoder()
    (result,) = evaluate(model, params, evaluation(samples=3), data(task))
    assert [row["targets"] for row in result.predictions] == ["no", "yes", "no"]


def test_trimmed_examples_are_counted(caplog):
    task = register("eval_trimmed")
    model, params = encoder_decoder()
    (result,) = evaluate(model, params, evaluation(), data(task, targets_length=4))
    assert result.trimmed == 1
    assert "1 of 5 examples" in caplog.text


def test_no_split_no_evaluation():
    model, _ = encoder_decoder()
    assert Evaluator(model, evaluation(split=None), data("no such task")).evaluate({}) == []


def test_mistakes_are_told_before_anything_is_read():
    task = register("eval_mistakes")
    model, _ = encoder_decoder()
    with pytest.raises(UserError, match=r"no split 'validatoin'.*Nearest: validation"):
        Evaluator(model, evaluation(split="validatoin"), data(task))
    with pytest.raises(UserError, match=r"unknown task 'eval_mistake'.*eval_mistakes"):
        Evaluator(model, evaluation(tasks=("eval_mistake",)), data(task))
    encoder, _ = make(ToyEncoderConfig(vocab_size=384))
    with pytest.raises(UserError, match="not for an encoder"):
        Evaluator(encoder, evaluation(), data(task))
    with pytest.raises(UserError, match=r"examples -1 \(Evaluation\.examples\)"):
        Evaluation(examples=-1)
    ranked = register("eval_unranked", metrics=[functools.partial(rank_classification, log=[])])
    model, params = encoder_decoder()
    with pytest.raises(UserError, match="no field 'choices'"):
        evaluate(model, params, evaluation(), data(ranked))


def test_written_files(tmp_path):
    rows = [{"inputs": "ä", "targets": "b", "prediction": "c", "correct": False, "score": -math.inf}]
    results = [
        EvalResult(task="one", split="test", examples=3, trimmed=1, metrics={"loss": 0.5, "f1": math.nan}, predictions=rows),
        EvalResult(task="two", split="test", examples=2, metrics={"perplexity": math.inf}),
    ]  # fmt: skip
    write(tmp_path, 40, results)
    assert json.loads((tmp_path / "eval" / "40.json").read_text()) == {
        "step": 40,
        "tasks": {
            "one": {"split": "test", "examples": 3, "trimmed": 1, "metrics": {"loss": 0.5, "f1": "nan"}},
            "two": {"split": "test", "examples": 2, "trimmed": 0, "metrics": {"perplexity": "inf"}},
        },
    }
    lines = (tmp_path / "eval" / "40" / "one.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{**rows[0], "score": "-inf"}]
    assert "ä" in lines[0]
    assert (tmp_path / "eval" / "40" / "two.jsonl").read_text() == ""
    assert not list(tmp_path.rglob("*.partial"))

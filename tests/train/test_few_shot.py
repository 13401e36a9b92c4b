import functools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t2t.checkpoint import CheckpointConfig
from t2t.data.config import Data
from t2t.decode import score_many
from t2t.errors import UserError
from t2t.train.evaluation import EvalResult, Evaluation, Evaluator, write
from t2t.train.few_shot import FewShot, Prompter, Shot, frame
from t2t.train.results import merged
from t2t.vocabularies import Bytes
from tests.decode.toy import ToyConfig, ToyEncoderConfig, ToyEncoderDecoderConfig, make

BYTES = Bytes()
CHOICES = ("yes", "no")
POOL = [Shot(f"q: {i}?", CHOICES[i % 3 == 0]) for i in range(12)]
QUERIES = [("q: 3?", "no"), ("q: 40?", "yes"), ("q: 51?", "no")]  # the first is in the training split too


def prompter(seed=0, *, pool=POOL, kind="decoder", room=400, **options):
    few_shot = FewShot(**{"shots": 3, **options})
    return Prompter(
        few_shot, seed, task="t", vocabulary=BYTES, shared=kind == "decoder", room=room, eos=True, pool=pool
    )


def test_a_prompt_is_its_examples_and_then_the_query():
    written = prompter(between=" => ", joint=" ## ")
    prompt = written.prompt("q: 40?")
    shown = written.drawn("q: 40?")
    assert (len(shown), prompt.shots) == (3, 3)
    assert prompt.text == "".join(f"{s.inputs} => {s.targets} ## " for s in shown) + "q: 40?"
    assert prompt.ids == [*BYTES.encode(prompt.text), BYTES.eos_id]
    assert prompter(shots=0).prompt("q?").ids == [*BYTES.encode("q?"), BYTES.eos_id]
    for kind, end in (("decoder", []), ("encoder_decoder", [BYTES.eos_id])):
        assert prompter(shots=0, as_text=True, kind=kind).prompt("q?").ids == [*BYTES.encode("q?\n"), *end]


def test_the_query_is_never_among_its_examples_which_differ_by_seed_and_query_alone():
    drawn = {}
    for seed in range(5):
        forward, backward = prompter(seed, shots=11), prompter(seed, shots=11)
        texts = [shot.inputs for shot in POOL]
        drawn[seed] = {text: forward.drawn(text) for text in texts}
        assert drawn[seed] == {text: backward.drawn(text) for text in reversed(texts)}
        for text, shown in drawn[seed].items():
            assert {shot.inputs for shot in shown} == set(texts) - {text}
    assert len({str(found) for found in drawn.values()}) == 5
    assert len({str(shown[:2]) for shown in drawn[0].values()}) > 6
    same = prompter(each=False, shots=2)
    assert len({str(same.drawn(f"query {i}")) for i in range(9)}) == 1
    # Twice the same inputs are one example.
    assert len(prompter(pool=POOL * 2, shots=12).drawn("other")) == 12
    # More than once only where there are too few others.
    two = [Shot("q: 1?", "no"), Shot("q: 2?", "yes")] * 5
    assert {shot.inputs for shot in prompter(pool=two, shots=4).drawn("q: 1?")} == {"q: 2?"}
    assert sorted(shot.inputs for shot in prompter(pool=two, shots=2).drawn("q: 3?")) == ["q: 1?", "q: 2?"]
    with pytest.raises(UserError, match=r"6 examples are needed .* only 5 that differ from the query\. Nearest: 5"):
        prompter(pool=two, shots=6).drawn("q: 1?")
    with pytest.raises(
        UserError, match=r"'t': 12 examples are needed .* only 11 that differ from the query\. Nearest: 11"
    ):
        prompter(shots=12).drawn("q: 3?")


def test_stratified_examples_have_every_target_alike():
    for seed in range(5):
        targets = [shot.targets for shot in prompter(seed, stratified=True, shots=4).drawn("other")]
        assert sorted(targets) == ["no", "no", "yes", "yes"]
        five = [shot.targets for shot in prompter(seed, stratified=True, shots=10).drawn("other")]
        assert five.count("no") == 4  # all there are
    orders = {tuple(shot.targets for shot in prompter(s, stratified=True, shots=4).drawn("other")) for s in range(20)}
    assert len(orders) > 3


def test_what_does_not_fit_is_left_out_only_when_said_so():
    whole = prompter().prompt("q: 40?")
    exact = prompter(room=len(whole.ids))
    assert exact.prompt("q: 40?") == whole
    exact.check()
    strict = prompter(room=len(whole.ids) - 1)
    strict.prompt("q: 40?")
    strict.prompt("q")
    with pytest.raises(
        UserError,
        match=rf"'t': 1 of 2 prompts of 3 examples are longer than {len(whole.ids) - 1} tokens .* the longest {len(whole.ids)}",
    ):
        strict.check()
    lenient = prompter(room=len(whole.ids) - 1, fewer=True)
    fewer = lenient.prompt("q: 40?")
    assert fewer.shots == 2
    assert whole.text.endswith(fewer.text)  # the first ones go first
    lenient.check()
    assert prompter(room=3, fewer=True).prompt("q: 40?").shots == 0


def test_what_all_inputs_have_in_common_are_whole_words():
    assert frame(["Is 12 odd or not?", "Is 13 odd or not?", "Is 4 odd or not?"]) == ("Is ", " odd or not?")
    assert frame(["parity: 1", "parity: 12"]) == ("parity: ", "")
    assert frame(["one text", "one text"]) == ("", "")
    assert frame(["a b a b", "a b"]) in [("a ", ""), ("a ", " b"), ("", " b")]


def register(name, *, splits=None, choices=True, inputs=True, metrics=()):
    splits = splits or {"train": POOL, "validation": QUERIES}

    def read(split, shuffle_files=False, seed=None):
        columns = {"inputs": [q for q, _ in splits[split]], "targets": [a for _, a in splits[split]]}
        return tf.data.Dataset.from_tensor_slices(columns if inputs else {"targets": columns["targets"]})

    feature = seqio.Feature(seqio.ByteVocabulary(extra_ids=100), add_eos=True)
    steps = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    if choices:
        steps.append(lambda dataset: dataset.map(lambda e: {**e, "choices": tf.constant(CHOICES)}))
    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(read, splits=list(splits)),
        preprocessors=steps,
        output_features={"inputs": feature, "targets": feature} if inputs else {"targets": feature},
        metric_fns=list(metrics),
    )
    return name


def exact_match(targets, predictions):
    return {"exact_match": float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))}


@functools.cache
def toy(kind):
    config = {"decoder": ToyConfig, "encoder_decoder": ToyEncoderDecoderConfig, "encoder": ToyEncoderConfig}[kind]
    return make(config(vocab_size=384, sharpness=0.3))


def evaluated(kind, task, *, batch_size=2, few_shot=None, **changes):
    model, params = toy(kind)
    evaluation = Evaluation(batch_size=batch_size, samples=0, length=4, few_shot=few_shot or FewShot(), **changes)
    data = Data(task=task, inputs_length=64, targets_length=8, batch_size=8)
    (result,) = Evaluator(model, evaluation, data).evaluate(params)
    return result


ALL = ("length", "unconditional", "contextual")


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_no_examples_are_the_evaluation_as_it_was(kind):
    task = register("fs_zero", metrics=[exact_match])
    plain = evaluated(kind, task)
    calibrated = evaluated(kind, task, few_shot=FewShot(calibration=ALL, seeds=3, stratified=True, between=" "))
    assert {"rank_accuracy", "loss", "exact_match"} <= set(plain.metrics)
    assert set(calibrated.metrics) - set(plain.metrics) == {f"rank_accuracy_{name}" for name in ALL}
    assert {name: calibrated.metrics[name] for name in plain.metrics} == plain.metrics
    assert (calibrated.seeds, calibrated.spread) == (1, {})
    rows = [{k: v for k, v in row.items() if k not in {f"choice_{c}" for c in ALL}} for row in calibrated.predictions]
    assert rows == plain.predictions


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_scores_behind_examples_are_those_of_the_whole_text_and_calibrated_ones_follow(kind):
    task = register("fs_scores")
    few_shot = FewShot(shots=2, seed=5, as_text=kind == "decoder", calibration=ALL)
    result = evaluated(kind, task, few_shot=few_shot)
    assert result.metrics["shots"] == 2.0
    model, params = toy(kind)
    end = [] if kind == "decoder" else [1]
    tail = "\n" if kind == "decoder" else ""

    def scores(text):
        answers = [[*BYTES.encode(choice), 1] for choice in CHOICES]
        return np.array(score_many(model, params, [[*BYTES.encode(text), *end]] * 2, answers))

    alone = scores("Answer:" + tail)
    lengths = [len(choice) + 1 for choice in CHOICES]
    writer = Prompter(few_shot, 5, task=task, vocabulary=BYTES, shared=kind == "decoder", room=64, eos=True, pool=POOL)
    hits = dict.fromkeys(["", *ALL], 0)
    total = 0.0
    for row, (query, target) in zip(result.predictions, QUERIES, strict=True):
        shown = writer.drawn(query)
        assert query not in [shot.inputs for shot in shown]
        before = "".join(f"{shot.inputs}\n{shot.targets}\n\n" for shot in shown)
        assert row["prompt"] == before + query + tail
        assert (row["inputs"], row["seed"]) == (query, 5)
        own = scores(before + query + tail)
        np.testing.assert_allclose(list(row["choice_scores"].values()), own, rtol=1e-5)
        total -= own[CHOICES.index(target)]
        shares = []
        for text in ("q: N/A", "q: [MASK]", "q: "):  # "q: " stands in all inputs
            values = np.exp(scores(before + text + tail))
            shares.append(values / values.sum())
        chosen = {
            "": own,
            "length": own / lengths,
            "unconditional": own - alone,
            "contextual": np.exp(own) / np.exp(own).sum() / np.mean(shares, axis=0),
        }
        for name, values in chosen.items():
            best = CHOICES[int(np.argmax(values))]
            assert row["choice" + f"_{name}" * bool(name)] == best
            hits[name] += best == target
    for name, count in hits.items():
        assert result.metrics["rank_accuracy" + f"_{name}" * bool(name)] == pytest.approx(count / 3)
    tokens = sum(len(target) + 1 for _, target in QUERIES)
    assert result.metrics["loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_results_do_not_depend_on_the_batch_size_and_seeds_are_averaged():
    task = register("fs_seeds")
    few_shot = FewShot(shots=2, seeds=3, calibration=("contextual",))
    one, many = (evaluated("decoder", task, batch_size=size, few_shot=few_shot) for size in (1, 32))
    assert [row["prompt"] for row in one.predictions] == [row["prompt"] for row in many.predictions]
    for name, value in one.metrics.items():
        assert many.metrics[name] == pytest.approx(value, rel=1e-5), name
    assert one.seeds == 3
    assert [row["seed"] for row in one.predictions] == [0] * 3 + [1] * 3 + [2] * 3
    assert len({row["prompt"] for row in one.predictions}) == 9
    alone = [
        evaluated("decoder", task, batch_size=32, few_shot=replace(few_shot, seed=seed, seeds=1)).metrics
        for seed in range(3)
    ]
    losses = [metrics["loss"] for metrics in alone]
    assert one.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert one.spread["loss"] == pytest.approx(np.std(losses, ddof=1), rel=1e-3)
    assert one.spread["loss"] > 0


def test_what_cannot_be_prompted_is_refused(caplog):
    task, shots = register("fs_mistakes"), FewShot(shots=2)
    with pytest.raises(UserError, match=r"an encoder fills in masks.*--shots 2"):
        evaluated("encoder", task, few_shot=shots)
    with pytest.raises(
        UserError, match=r"3 of 3 prompts of 9 examples are longer than 64 tokens \(--data.inputs-length\)"
    ):
        evaluated("decoder", task, few_shot=replace(shots, shots=9))
    fewer = evaluated("decoder", task, few_shot=replace(shots, shots=9, fewer=True))
    assert 0 < fewer.metrics["shots"] < 9
    assert evaluated("decoder", task, few_shot=replace(shots, shots=9, length=200)).metrics["shots"] == 9
    untrained = register("fs_untrained", splits={"validation": QUERIES})
    with pytest.raises(UserError, match=r"'fs_untrained' has no split 'train' to draw examples from"):
        evaluated("decoder", untrained, few_shot=shots)
    text = register("fs_text", inputs=False, choices=False)
    with pytest.raises(UserError, match="'fs_text' has no text of its inputs"):
        evaluated("decoder", text, few_shot=shots)
    open_ended = register("fs_open", choices=False)
    assert "rank_accuracy" not in evaluated("decoder", open_ended, few_shot=FewShot(calibration=("length",))).metrics
    assert "'fs_open' has no choices to calibrate" in caplog.text
    for options, message in (
        ({"shots": -1}, "shots -1 .*Nearest: 0"),
        ({"seeds": 0}, "seeds 0"),
        ({"calibration": ("contextal",)}, "unknown calibration 'contextal'.*Nearest: contextual"),
        ({"calibration": ("none", "length")}, "name each one once, and 'none' only alone"),
        ({"calibration": ("contextual",), "content_free": ()}, "at least one text"),
    ):
        with pytest.raises(UserError, match=message):
            FewShot(**options)


def test_means_and_deviations_are_written(tmp_path):
    results = [
        EvalResult(task="t", split="test", examples=2, metrics={"a": value, "b": math.inf}) for value in (1.0, 2.0, 6.0)
    ]
    found = merged(results)
    assert (found.metrics["a"], found.seeds, found.metrics["b"]) == (3.0, 3, math.inf)
    assert found.spread["a"] == pytest.approx(math.sqrt(7))
    write(tmp_path, 7, [replace(found, task="t@4-shot")])
    written = json.loads((tmp_path / "eval" / "7.json").read_text())["tasks"]["t@4-shot"]
    assert (written["seeds"], written["spread"]) == (3, {"a": found.spread["a"], "b": "nan"})
    assert merged(results[:1]) is results[0]


def checked(kind, task, *, few_shot=None, checkpoint=None, **changes):
    model, _ = toy(kind)
    evaluation = Evaluation(batch_size=2, samples=0, length=4, few_shot=few_shot or FewShot(), **changes)
    Evaluator(model, evaluation, Data(task=task, inputs_length=64, targets_length=8, batch_size=8)).check(checkpoint)


def test_mistakes_of_an_evaluation_are_told_before_there_are_parameters():
    task = register("fs_checked")
    checked("decoder", task, few_shot=FewShot(shots=2, calibration=ALL))
    with pytest.raises(UserError, match=r"100000 examples are needed .* Nearest: \d+"):
        checked("decoder", task, few_shot=FewShot(shots=100_000))
    with pytest.raises(UserError, match="prompts of 2 examples are longer than 9 tokens"):
        checked("decoder", task, few_shot=FewShot(shots=2, length=9))
    with pytest.raises(UserError, match="no split 'trian' to draw examples from"):
        checked("decoder", task, few_shot=FewShot(shots=2, split="trian"))
    with pytest.raises(UserError, match="examples cannot be shown before them"):
        checked("decoder", register("fs_checked_lm", inputs=False), few_shot=FewShot(shots=2))


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_the_best_metric_is_one_that_the_evaluation_has(kind):
    task = register("fs_best", metrics=[exact_match])
    few_shot = FewShot(calibration=("length",))
    result = evaluated(kind, task, few_shot=few_shot)
    for name in result.metrics:
        checked(kind, task, few_shot=few_shot, checkpoint=CheckpointConfig(best_metric=f"eval/{task}/{name}"))
    for checkpoint in (CheckpointConfig(), CheckpointConfig(best_metric="nope", keep_best=0)):
        checked(kind, task, checkpoint=checkpoint)
    for wrong, near in (
        (f"eval/{task}/exact_macth", f"eval/{task}/exact_match"),
        ("eval/other/exact_match", f"eval/{task}/exact_match"),
        ("los", "eval/loss"),
        (f"eval/{task}/rank_accuracy_unconditional", f"eval/{task}/rank_accuracy"),
    ):
        with pytest.raises(UserError, match=r"\(--checkpoint.best-metric\): no evaluation of this run has") as caught:
            checked(kind, task, checkpoint=CheckpointConfig(best_metric=wrong))
        assert near in str(caught.value).partition("Nearest: ")[2]


def test_a_metric_function_that_fails_on_few_examples_hides_no_name():
    def picky(targets, predictions):
        raise ValueError("too few")

    task = register("fs_picky", metrics=[picky])
    checked("decoder", task, checkpoint=CheckpointConfig(best_metric=f"eval/{task}/anything"))
    with pytest.raises(UserError, match="no evaluation of this run has"):
        checked("decoder", task, checkpoint=CheckpointConfig(best_metric="eval/other/anything"))


def test_there_is_no_best_metric_without_an_evaluation():
    with pytest.raises(UserError, match=r"nothing is evaluated .* Nearest: --checkpoint.keep-best 0"):
        checked("decoder", "any", split=None, checkpoint=CheckpointConfig(best_metric="eval/any/exact_match"))
    checked("decoder", "any", split=None, checkpoint=CheckpointConfig())

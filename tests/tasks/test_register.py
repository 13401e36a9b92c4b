import numpy as np
import pytest
import seqio
import tensorflow as tf

from t2t import tasks
from t2t.errors import UserError
from t2t.tasks import metrics
from t2t.tasks.generated import GeneratedSource, copy_words
from t2t.tasks.objectives import causal_lm, encoder_features, fill_mask
from t2t.vocabularies import Bytes

ROWS = {
    "question": ["Who?", "Why {so}?"],
    "context": ["It was me.", "Because."],
    "label": [1, 0],
    "score": [0.5, 2.0],
    "ids": [[1, 2], [3, 4]],
    "meta": {"title": ["A", "B"]},
}


def function(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices(ROWS)


def source():
    return seqio.FunctionDataSource(
        function, splits=["train", "validation"], num_input_examples={"train": 2, "validation": 2}
    )


def add(**options):
    return tasks.add("tr_task", **{"source": source(), "targets": "context", "replace": True, **options})


def examples(task, **lengths):
    return list(task.get_dataset(lengths or None, "train", shuffle=False).as_numpy_iterator())


@pytest.mark.parametrize(
    ("options", "inputs", "targets"),
    [
        ({"inputs": "question"}, "Who?", "It was me."),
        ({"inputs": "question", "prefix": "answer: "}, "answer: Who?", "It was me."),
        (
            {"inputs": "question: {question} context: {context}", "targets": "label"},
            "question: Who? context: It was me.",
            "1",
        ),
        ({"inputs": "{meta.title}/{score} {{{label}}}"}, "A/0.5 {1}", "It was me."),
        ({"inputs": lambda e: tf.strings.upper(e["question"]), "prefix": "p "}, "p WHO?", "It was me."),
        ({"inputs": "question", "targets": lambda e: e["meta"]["title"]}, "Who?", "A"),
        ({"inputs": "question", "targets": "label", "labels": ["no", "yes"]}, "Who?", "yes"),
        ({"inputs": "question", "targets": "{label}", "labels": ["no", "yes"]}, "Who?", "yes"),
        ({"inputs": "question", "targets": lambda e: e["score"] > 1, "labels": ["low", "high"]}, "Who?", "low"),
        ({"inputs": "question", "targets": lambda e: e["meta"]["title"], "labels": ["A", "B"]}, "Who?", "A"),
    ],
)
def test_texts_of_an_example(options, inputs, targets):
    example = examples(add(**options))[0]
    assert example["inputs_pretokenized"].decode() == inputs
    assert example["targets_pretokenized"].decode() == targets
    vocabulary = Bytes()
    assert example["inputs"].tolist() == [*vocabulary.encode(inputs), vocabulary.eos_id]
    assert example["targets"].tolist() == [*vocabulary.encode(targets), vocabulary.eos_id]
    if "labels" in options:
        assert [choice.decode() for choice in example["choices"]] == list(options["labels"])
    else:
        assert "choices" not in example


def test_fields_that_metrics_need_are_kept():
    example = examples(add(inputs="question", keep=["ids", "label"]))[0]
    assert example["ids"].tolist() == [1, 2]
    assert example["label"] == 1


def test_a_hidden_label_and_one_out_of_range():
    assert examples(add(targets=lambda e: e["label"] * 0 - 1, labels=["a", "b"]))[0]["targets_pretokenized"] == b"<unk>"
    for wrong, found in (
        (lambda e: e["label"] + 1, "2"),
        (lambda e: e["label"] - 3, "-2"),
        (lambda e: e["context"], "'It was me.'"),
    ):
        message = f"UserError: targets of task 'tr_task': {found} is not one of the labels a, b."
        with pytest.raises(tf.errors.OpError, match=message):
            examples(add(targets=wrong, labels=["a", "b"]))


def test_an_objective_takes_the_place_of_eos():
    only = examples(add(objective=causal_lm), inputs=16, targets=16)
    assert only[0]["inputs"].size == 0
    assert only[0]["targets"].tolist() == [*Bytes().encode("It was me."), 1]
    encoder = examples(add(inputs="question", objective=[fill_mask], features=encoder_features), inputs=32, targets=32)[
        0
    ]
    assert encoder["inputs"].shape == encoder["targets"].shape == encoder["weights"].shape
    assert encoder["weights"].sum() == len("It was me.") + 1


def test_without_inputs_there_is_no_such_feature():
    assert list(add().output_features) == ["targets"]
    assert list(add(inputs="question").output_features) == ["inputs", "targets"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "bad name"}, "name 'bad name': use only letters"),
        ({"name": "copy_words", "replace": False}, "a task of that name already exists; .*replace=True"),
        ({"name": "tr_mixture"}, "a mixture of that name already exists"),
        ({"prefix": "p: "}, "prefix 'p: ' .* no inputs"),
        ({"inputs": "{question"}, "inputs of task .*{question.*braces"),
        ({"inputs": "{question!r}"}, "braces may contain only field names"),
        ({"inputs": "{}"}, "braces may contain only field names"),
        ({"labels": ["a", "a"]}, "labels .* different"),
        ({"labels": "ab"}, "labels 'ab'"),
    ],
)
def test_malformed_tasks_are_refused_when_they_are_added(options, message):
    tasks.mix("tr_mixture", {"copy_words": 1}, replace=True)
    with pytest.raises(UserError, match=message):
        tasks.add(**{"name": "tr_other", "source": source(), "targets": "context", "replace": True, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": "qestion"}, "inputs of task 'tr_task': the source has no field 'qestion'. Nearest: question"),
        ({"targets": "{contxt}!"}, "targets of task 'tr_task': the source has no field 'contxt'. Nearest: context"),
        ({"inputs": "ids"}, "field 'ids' is not a single value"),
        ({"inputs": "meta"}, "field 'meta' is not a single value"),
        ({"targets": "score", "labels": ["a", "b"]}, "field 'score' must be an integer or text, not float32"),
        ({"targets": lambda e: e["label"]}, "targets of task 'tr_task': the function returns int32"),
        ({"inputs": lambda e: e["ids"]}, "inputs of task 'tr_task': the function returns int32 of shape"),
        ({"keep": ["answer"]}, "keep of task 'tr_task': the source has no field 'answer'"),
    ],
)
def test_fields_are_checked_in_one_line_when_the_task_is_read(options, message):
    task = add(**options)
    with pytest.raises(UserError, match=message) as caught:
        task.get_dataset(None, "train")
    assert "\n" not in str(caught.value)


def test_a_name_is_taken_once():
    add()
    with pytest.raises(UserError, match="replace=True"):
        add(replace=False)
    again = add()
    assert tasks.find("tr_task") is again


def test_find_names_and_nearest():
    assert tasks.find("reverse_words") is seqio.TaskRegistry.get("reverse_words")
    assert "reverse_words" in tasks.names()
    assert tasks.names() == sorted(tasks.names())
    with pytest.raises(UserError, match=r"unknown task or mixture 'reverse_word'\. Nearest: reverse_words"):
        tasks.find("reverse_word")


def test_a_task_of_plain_seqio_works_beside_ours():
    seqio.TaskRegistry.remove("tr_plain")
    plain = seqio.TaskRegistry.add(
        "tr_plain",
        source=source(),
        output_features=tasks.find("copy_words").output_features,
        preprocessors=[
            lambda dataset: dataset.map(lambda e: {"inputs": e["question"], "targets": e["context"]}),
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
        ],
        metric_fns=[metrics.exact_match],
    )
    assert tasks.find("tr_plain") is plain
    assert "tr_plain" in tasks.names()
    described = tasks.describe("tr_plain")
    assert (described.prefix, described.labels, described.metrics) == (None, None, ("exact_match",))
    assert described.splits == {"train": 2, "validation": 2}
    mixture = tasks.mix("tr_both", {"tr_plain": 1, "copy_words": 1}, replace=True)
    found = list(
        mixture.get_dataset({"inputs": 64, "targets": 64}, "train", shuffle=False, seed=0).take(20).as_numpy_iterator()
    )
    wanted = np.array([*Bytes().encode("Who?"), 1])
    assert any(np.array_equal(example["inputs"], wanted) for example in found)
    assert any(Bytes().decode(example["inputs"]).startswith("copy: ") for example in found)


def test_describe():
    found = tasks.describe("parity")
    assert (found.kind, found.prefix, found.labels) == ("task", "parity: ", ("even", "odd"))
    assert found.splits == {"train": 100_000, "validation": 1_000, "test": 1_000}
    assert found.features == ("inputs", "targets")
    assert found.metrics == ("accuracy",)
    assert tasks.describe("docs_summary", sizes=False).splits == {}
    small = GeneratedSource("small", copy_words, sizes={"train": 10})
    tasks.add("tr_small", source=small, inputs="inputs", targets="targets", metrics=[metrics.rouge], replace=True)
    tasks.mix("tr_mixture", {"tr_small": 1, "parity": 3}, replace=True)
    mixture = tasks.describe("tr_mixture")
    assert mixture.kind == "mixture"
    assert mixture.rates == {"tr_small": 0.25, "parity": 0.75}
    assert mixture.splits == {"train": 100_010, "validation": 1_000, "test": 1_000}
    assert set(mixture.metrics) == {"rouge", "accuracy"}
    with pytest.raises(UserError, match="Nearest: parity"):
        tasks.describe("party")

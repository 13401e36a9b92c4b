"""Heads of BERT and its kin for labels, tags and spans: in with their labels, asked, and out again."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t2t.errors import UserError
from t2t.export.huggingface import opened
from t2t.launch.export import export
from t2t.launch.import_model import import_model
from t2t.launch.infer import command as infer
from t2t.models.families import exportable, family_of
from t2t.sharding import MeshConfig
from tests.interop.case import HEADS, LABELS
from tests.interop.cases import CASES
from tests.interop.goldens import write_directory

BY_NAME = {case.name: case for case in CASES}
HEADED = [case for case in CASES if case.output in HEADS.values()]


def tokenizer(directory):
    """Write a WordPiece of as many words as the cases have ids."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(91))]
    (directory / "vocab.txt").write_text("\n".join(words) + "\n")
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))


def refused(directory, message):
    with pytest.raises(UserError, match=message) as caught, opened(directory, family_of) as source:
        source.params(MeshConfig().build())
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)


@pytest.mark.parametrize("case", HEADED, ids=lambda case: case.name)
def test_the_head_and_its_labels_come_in_and_go_out_as_they_came(case, tmp_path):
    found = write_directory(case, tmp_path)
    with opened(tmp_path, family_of) as source:
        config = source.config
        assert not source.left_out
    assert (config.output, config.labels) == (case.output, () if case.output == "span" else LABELS)
    _, options, tensors = exportable(config)
    assert options["architectures"] == found["config"]["architectures"]
    assert {tensor.name for tensor in tensors} == set(found["tensors"])
    assert options.get("id2label") == found["config"].get("id2label")
    assert options.get("label2id") in (None, {label: i for i, label in enumerate(LABELS)})


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("DistilBERT label", {"text": ("w1 w2", "w7")}, set(LABELS)),
        ("BERT tags", {"text": ("w1 w2",)}, {"w1"}),
        ("BERT span", {"text": ("w1",), "second": ("w2 w3",)}, {"w2", "w3", "(no"}),
    ],
)
def test_a_run_of_one_answers_and_is_exported_as_it_was(name, asked, said, tmp_path, capsys):
    write_directory(BY_NAME[name], tmp_path / "theirs")
    tokenizer(tmp_path / "theirs")
    import_model(str(tmp_path / "theirs"), dir=str(tmp_path / "run"))
    capsys.readouterr()
    infer(str(tmp_path / "run"), **asked)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(asked["text"])
    assert all(line.split()[0].split("/")[0] in said for line in lines)
    export(str(tmp_path / "run"), format="huggingface", out=str(tmp_path / "out"))
    before, after = (load_file(tmp_path / place / "model.safetensors") for place in ("theirs", "out"))
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert not (tmp_path / "out" / "generation_config.json").exists()


def test_labels_are_named_as_transformers_would_where_nothing_names_them(tmp_path):
    case = BY_NAME["BERT label"]
    write_directory(case, tmp_path, id2label=None, label2id=None, num_labels=3)
    with opened(tmp_path, family_of) as source:
        assert source.config.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_labels_are_in_the_order_of_their_ids(tmp_path):
    write_directory(BY_NAME["RoBERTa tags"], tmp_path, id2label={"2": "c", "0": "a", "1": "b"})
    with opened(tmp_path, family_of) as source:
        assert source.config.labels == ("a", "b", "c")


def test_a_pooler_that_a_head_has_no_use_for_is_left_out_and_told(tmp_path):
    write_directory(BY_NAME["BERT tags"], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "bert.pooler.dense.bias": np.ones(32, np.float32)}, tmp_path / "model.safetensors")
    with opened(tmp_path, family_of) as source:
        assert list(source.left_out) == ["bert.pooler.dense.bias"]


@pytest.mark.parametrize("family", ["BERT", "RoBERTa", "DistilBERT", "ALBERT", "ELECTRA"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"problem_type": "multi_label_classification"},
            "problem_type is 'multi_label_classification': only a single label",
        ),
        ({"problem_type": "regression"}, "problem_type is 'regression'"),
        ({"id2label": {"0": "score"}}, "id2label is .* one label means regression"),
        ({"id2label": None, "num_labels": 1}, "one label means regression"),
        ({"id2label": {"0": "a", "1": "b"}}, r"classifier.*weight has shape 3x32; the configuration expects 2x32"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label is .* the keys must be consecutive ids that start at 0"),
        ({"id2label": ["a", "b", "c"]}, "id2label is .* the keys must be consecutive ids"),
        ({"id2label": {"0": "a", "1": "b", "2": 3}}, "id2label is .* labels must be strings"),
        ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "config.json: model.labels is .* different"),
        (
            {"architectures": ["AnyForMultipleChoice"]},
            "architectures is 'AnyForMultipleChoice': its head is not supported",
        ),
        ({"architectures": None}, "architectures is None, which does not say which head classifier"),
        ({"architectures": ["SomeModel"]}, "architectures is 'SomeModel', which does not say which head classifier"),
        ({"architectures": ["SomeForQuestionAnswering"]}, "qa_outputs.weight, qa_outputs.bias are missing"),
    ],
)
def test_heads_that_are_not_here_are_refused(family, options, message, tmp_path):
    write_directory(BY_NAME[f"{family} label"], tmp_path, **options)
    refused(tmp_path, message)


@pytest.mark.parametrize(
    ("name", "architecture", "tensor"),
    [
        ("GPT-2 as published", "GPT2ForSequenceClassification", "score.weight"),
        ("LLaMA 3: grouped, llama3 positions", "LlamaForSequenceClassification", "score.weight"),
        ("T5 1.0", "T5ForSequenceClassification", "classification_head.dense.weight"),
    ],
)
def test_heads_of_other_families_are_refused_by_name(name, architecture, tensor, tmp_path):
    write_directory(BY_NAME[name], tmp_path, architectures=[architecture])
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, tensor: np.ones((2, 32), np.float32)}, tmp_path / "model.safetensors")
    refused(tmp_path, rf"the model has no parameter for {tensor} \(of {architecture}\)")


def test_an_albert_without_a_head_is_refused(tmp_path):
    write_directory(BY_NAME["ALBERT one group"], tmp_path, architectures=["AlbertModel"])
    tensors = load_file(tmp_path / "model.safetensors")
    body = {name: value for name, value in tensors.items() if name.startswith("albert.")}
    save_file(body, tmp_path / "model.safetensors")
    refused(tmp_path, "architectures is 'AlbertModel': the model has no head")

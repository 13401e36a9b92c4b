"""Heads of BERT and its kin for labels, numbers, tags and spans, poolers and classifiers of pairs: in with their labels, asked, and out again."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import t2t
from t2t.errors import UserError
from t2t.export.huggingface import opened
from t2t.launch.export import export
from t2t.launch.import_model import import_model
from t2t.launch.infer import command as infer
from t2t.models.bert.heads import PAIR_LABELS
from t2t.models.families import exportable, family_of
from t2t.optim import AdamW, Constant
from t2t.sharding import MeshConfig
from tests.interop import ours
from tests.interop.case import HEADS, LABELS, OF_TEXT, PROBLEMS
from tests.interop.cases import CASES, inputs
from tests.interop.goldens import write_directory
from tests.models.tiny import quick_jit

BY_NAME = {case.name: case for case in CASES}
# What is exported as another family (XLM-RoBERTa as RoBERTa) has a test of its own.
HEADED = [case for case in CASES if case.output in (*OF_TEXT, *HEADS.values()) and not case.exported]
CLASSIFIERS = [case for case in HEADED if case.output == "label" and case.model.endswith("SequenceClassification")]
PRETRAINED = [case for case in CASES if case.paired]


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
    own = tuple(case.options.get("id2label", {}).values())
    labels = PAIR_LABELS if case.model.endswith("NextSentencePrediction") else () if len(own) == 1 else own
    assert (config.output, config.labels) == (case.output, labels)
    _, options, tensors = exportable(config)
    assert options["architectures"] == found["config"]["architectures"]
    assert {tensor.name for tensor in tensors} == set(found["tensors"])
    assert options.get("problem_type") in (None, case.options.get("problem_type", "single_label_classification"))
    if own:
        assert options["label2id"] == {label: i for i, label in enumerate(own)}
        assert options["id2label"] == {str(i): label for i, label in enumerate(own)}


def test_every_family_has_every_head_that_transformers_has():
    families = (
        "BERT",
        "RoBERTa",
        "XLM-RoBERTa-XL",
        "DistilBERT",
        "ALBERT",
        "ELECTRA",
        "MPNet",
        "ModernBERT",
        "EuroBERT",
    )
    families += ("DeBERTa",)
    wanted = {(family, head) for family in families for head in HEADS.values()} - {("EuroBERT", "span")}
    assert wanted == {(case.family, case.output) for case in HEADED if case.output in HEADS.values()}
    assert set(families) == {case.family for case in CLASSIFIERS}


@pytest.mark.parametrize("kind", HEADS)
def test_the_heads_of_xlm_roberta_are_those_of_roberta(kind, tmp_path):
    case = BY_NAME[f"RoBERTa {HEADS[kind]}"]
    found = write_directory(case, tmp_path, model_type="xlm-roberta", architectures=[f"XLMRobertaFor{kind}"])
    with opened(tmp_path, family_of) as source:
        assert source.config.output == HEADS[kind]
    assert {tensor.name for tensor in exportable(source.config)[2]} == set(found["tensors"])


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("case", CLASSIFIERS, ids=lambda case: case.name)
def test_classifiers_of_every_family_are_for_several_labels_and_numbers_too(case, problem, tmp_path):
    found = write_directory(case, tmp_path, problem_type=problem)
    with opened(tmp_path, family_of) as source:
        assert (source.config.output, source.config.labels) == (PROBLEMS[problem], LABELS)
    _, options, tensors = exportable(source.config)
    assert options["architectures"] == found["config"]["architectures"]
    assert options["problem_type"] == problem
    assert {tensor.name for tensor in tensors} == set(found["tensors"])


@pytest.mark.parametrize("case", PRETRAINED, ids=lambda case: case.name)
def test_the_classifier_of_pairs_is_that_of_transformers(case, tmp_path):
    found = write_directory(case, tmp_path)
    with opened(tmp_path, family_of) as source:
        params = source.params(MeshConfig().build())
        assert not source.left_out
        head = {"head": "label", "labels": PAIR_LABELS, "pooler": True}
        model = dataclasses.replace(source.config, **head).build()
    answer = {"pooler": params["answer"]["pooler"], "output": params["pair_classifier"]}
    params = {name: params[name] for name in ("embeddings", "encoder")} | {"answer": answer}
    logits = quick_jit(model.logits)(params, ours.batch(case, inputs(case)))[:, 0]
    np.testing.assert_allclose(logits, found["pairs"], atol=1e-4)


def test_published_weights_of_a_pretrained_bert_name_only_the_masked_lm_head(tmp_path):
    """As bert-base-uncased is stored: what the class does not have goes out again with the class that has it."""
    found = write_directory(BY_NAME["BERT pretraining"], tmp_path, architectures=["BertForMaskedLM"])
    with opened(tmp_path, family_of) as source:
        assert not source.left_out
    _, options, tensors = exportable(source.config)
    assert options["architectures"] == ["BertForPreTraining"]
    assert {tensor.name for tensor in tensors} == set(found["tensors"])


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


@pytest.mark.slow
def test_fine_tuning_starts_from_the_published_pooler_and_pretraining_keeps_it(tmp_path):
    write_directory(BY_NAME["BERT pretraining"], tmp_path / "theirs")
    tokenizer(tmp_path / "theirs")
    import_model(str(tmp_path / "theirs"), dir=str(tmp_path / "run"))
    published = load_file(tmp_path / "theirs" / "model.safetensors")
    shared = {"steps": 1, "batch_size": 8, "eval_every": 0, "optimizer": AdamW(schedule=Constant(peak=1e-9))}
    options = {"evaluation.split": None, "data.inputs_length": 16, "data.shards": 2}
    head = {"model.head": "label", "model.labels": ("even", "odd"), "model.pooler": True}
    start = {"start_from.exclude": ("lm_head", "transform")}
    label = t2t.train(
        f"from:{tmp_path / 'run'}",
        dir=tmp_path / "label",
        task="parity_label",
        options={**options, **head, **start},
        **shared,
    )
    pooler = np.asarray(label.parameters["answer"]["pooler"]["kernel"]).T
    np.testing.assert_allclose(pooler, published["bert.pooler.dense.weight"], atol=1e-6)
    more = t2t.train(
        f"from:{tmp_path / 'run'}", dir=tmp_path / "more", task="docs_masked_lm", options=options, **shared
    )
    out = more.export("huggingface", tmp_path / "out")
    written = load_file(Path(out) / "model.safetensors")
    for name in ("bert.pooler.dense.weight", "cls.seq_relationship.weight", "cls.seq_relationship.bias"):
        np.testing.assert_array_equal(written[name], published[name])


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
        ({"problem_type": "regresion"}, "problem_type is 'regresion': supported are .*Nearest: regression"),
        (
            {"problem_type": "single_label_classification", "id2label": {"0": "score"}},
            "problem_type is 'single_label_classification': there is only one label. Nearest: regression",
        ),
        ({"id2label": {"0": "score"}}, r"classifier.*weight has shape 3x32; the configuration expects 1x32"),
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


def test_a_base_model_with_narrow_embeddings_computes_vectors(tmp_path, capsys):
    write_directory(BY_NAME["ALBERT base"], tmp_path / "theirs")
    tokenizer(tmp_path / "theirs")
    import_model(str(tmp_path / "theirs"), dir=str(tmp_path / "run"))
    capsys.readouterr()
    infer(str(tmp_path / "run"), text=("w1 w2",), embed="first")
    assert len(json.loads(capsys.readouterr().out)["embedding"]) == 32
    with pytest.raises(UserError, match=r"has no head: it computes vectors of texts\. Nearest: --embed"):
        infer(str(tmp_path / "run"), text=("w1 w2",))

"""The list of tasks and a task's examples, as whoever runs `t2t tasks` sees them."""

import io
import re

import numpy as np
import pytest
import seqio
import tensorflow as tf
from rich.console import Console

from t2t import tasks
from t2t.errors import UserError
from t2t.launch import show_tasks
from t2t.tasks import metrics, objectives, sources
from t2t.vocabularies import Bytes, SentencePiece, WordPiece

TEXT = "Return the sum of all elements of an array over a given axis.\nThe axis may be None."
LABELS = ["even", "odd"]


def source(columns):
    count = len(next(iter(columns.values())))

    def dataset(split, shuffle_files=False, seed=None):
        return tf.data.Dataset.from_tensor_slices(columns)

    return seqio.FunctionDataSource(dataset, splits=("train",), num_input_examples={"train": count})


@pytest.fixture(scope="module", autouse=True)
def registered():
    """Tasks of each kind, some of SeqIO's own making; gone afterwards."""
    texts = source({"targets": [TEXT, "Short."]})
    pairs = source({"inputs": ["reverse: a b", "reverse: c d"], "targets": ["b a", "d c"]})
    tokenize, end = seqio.preprocessors.tokenize, seqio.preprocessors.append_eos
    both, alone, encoder = (
        objectives.text_features(Bytes()),
        objectives.text_features(Bytes(), inputs=False),
        objectives.encoder_features(Bytes()),
    )
    made = {
        "shown_span": (texts, both, [tokenize, objectives.span_corruption]),
        "shown_causal": (texts, alone, [tokenize, objectives.causal_lm]),
        "shown_causal_empty_inputs": (texts, both, [tokenize, objectives.causal_lm]),
        "shown_masked": (texts, encoder, [tokenize, objectives.masked_lm]),
        "shown_plain": (pairs, both, [tokenize, end]),
    }
    for name, (where, features, steps) in made.items():
        seqio.TaskRegistry.add(
            name, source=where, output_features=features, preprocessors=steps, metric_fns=[metrics.exact_match]
        )
    numbers = seqio.Feature(seqio.PassThroughVocabulary(size=100), add_eos=False)
    ids = seqio.FunctionDataSource(
        lambda split, shuffle_files=False, seed=None: tf.data.Dataset.from_tensors(
            {"inputs": np.arange(5, 8, dtype=np.int32), "targets": np.arange(8, 10, dtype=np.int32)}
        ),
        splits=("train",),
    )
    seqio.TaskRegistry.add(
        "shown_ids", source=ids, output_features={"inputs": numbers, "targets": numbers}, preprocessors=[]
    )
    tasks.add(
        "shown_labels",
        source=source({"number": ["1", "2"], "label": [1, 0]}),
        prefix="parity: ",
        inputs="number",
        targets="label",
        labels=LABELS,
    )
    seqio.MixtureRegistry.add("shown_mixture", [("shown_plain", 1), ("shown_span", 3)])
    yield
    for name in [*made, "shown_ids", "shown_labels"]:
        seqio.TaskRegistry.remove(name)
    seqio.MixtureRegistry.remove("shown_mixture")


def text_of(capsys, name, **options):
    show_tasks.tasks(name, **options)
    return capsys.readouterr().out


def test_the_list_has_every_task_and_mixture_with_what_it_offers(capsys):
    show_tasks.tasks(filter="SHOWN_")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert {"shown_span", "shown_plain", "shown_mixture", "shown_labels"} <= set(lines)
    assert lines["shown_mixture"].split() == [
        "shown_mixture",
        "mixture",
        "inputs",
        "targets",
        "shown_plain",
        "+",
        "shown_span",
        "train",
        "exact_match",
    ]
    assert "inputs targets weights" in lines["shown_masked"]


def test_span_corruption_shows_the_text_with_what_is_missing_in_place(capsys):
    text = text_of(capsys, "shown_span", examples=1)
    assert "[<extra_id_0>: " in text
    shown = text.split("missing from the inputs\n")[1].split("marks:")[0]
    unmarked = re.sub(r"\[<extra_id_\d+>: (.*?)\]", r"\1", shown, flags=re.DOTALL)
    assert "".join(unmarked.split()) == "".join(TEXT.split()) + "</s>"
    assert "marks: [sentinel: missing from the inputs, to predict]" in text
    assert "kind encoder-decoder" in text


def test_masked_tokens_are_marked(capsys):
    text = text_of(capsys, "shown_masked", examples=1)
    assert any(mark in text for mark in ("[MASK: ", " -> ", "[= "))
    assert f"{round(0.15 * len(TEXT))} to predict" in text
    assert "kind encoder\n" in text


@pytest.mark.parametrize("name", ["shown_causal", "shown_causal_empty_inputs"])
def test_language_models_tasks_are_a_decoders(capsys, name):
    text = text_of(capsys, name, examples=1)
    assert "of train, for a model of kind decoder" in text
    assert "  inputs\n" not in text
    assert "    Return the sum of all elements" in text


def test_supervised_tasks_show_inputs_and_targets_prefix_and_choices(capsys):
    text = text_of(capsys, "shown_labels")
    assert "prefix           'parity: '" in text
    assert "labels           even, odd" in text
    assert (
        "example 1  inputs 10 tokens  targets 4 tokens\n  inputs\n    {parity: }1</s>\n  targets\n    odd</s>\n  choices\n    even | odd\n"
        in text
    )


def test_a_mixture_shows_its_tasks_in_turn_and_its_rates(capsys):
    text = text_of(capsys, "shown_mixture", examples=3)
    assert "shown_plain 25.0%" in text
    order = [line.split()[2] for line in text.splitlines() if line.startswith("example ")]
    assert order == ["shown_span", "shown_plain", "shown_span"]


def test_ids_without_text_are_shown_as_ids(capsys):
    text = text_of(capsys, "shown_ids")
    assert "  inputs\n    5 6 7\n  targets\n    8 9\n" in text


def test_what_is_cut_is_told(capsys):
    text = text_of(capsys, "shown_plain", inputs_length=4)
    assert "inputs 4 tokens of 13  targets 4 tokens  truncated" in text
    (line,) = [line for line in text.splitlines() if line.startswith("truncated")]
    assert line.split()[-1] == "100.0%"


def test_lengths_and_padding_are_those_of_the_rows(capsys):
    text = text_of(capsys, "shown_plain", inputs_length=26, targets_length=8)
    lines = {line.split("  ")[0]: line.split() for line in text.splitlines() if line}
    assert lines["inputs, tokens"][-3:] == ["13.0", "13", "26"]
    assert lines["targets, tokens"][-3:] == ["4.0", "4", "8"]
    assert lines["padding, one example per row"][-1] == "50.0%"
    assert lines["padding, packed"][-1] == "0.0%"


def test_another_vocabulary(capsys, tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "reverse", ":", "a", "b", "c", "d"]) + "\n"
    )
    text = text_of(capsys, "shown_plain", examples=1, vocabulary=str(path))
    assert "TokenizerVocabulary, 11 ids" in text
    assert "inputs 5 tokens  targets 3 tokens" in text


def test_which_file_is_which_vocabulary(tmp_path):
    import sentencepiece as library
    import tokenizers

    words = iter(["the quick brown fox jumps over the lazy dog"] * 20)
    library.SentencePieceTrainer.train(
        sentence_iterator=words,
        model_prefix=str(tmp_path / "v"),
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    found = show_tasks.vocabulary_of(str(tmp_path / "v.model"))
    assert found == SentencePiece(path=str(tmp_path / "v.model"), extra_ids=100)
    pieces = {name: i for i, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fox", "##es"])}
    tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token="[UNK]")).save(str(tmp_path / "t.json"))
    assert isinstance(show_tasks.vocabulary_of(str(tmp_path / "t.json")), WordPiece)
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(UserError, match=r"no.json"):
        show_tasks.vocabulary_of(str(tmp_path / "no.json"))
    (tmp_path / "v.bin").write_text("")
    with pytest.raises(UserError, match=r"extension '\.bin' is not one of"):
        show_tasks.vocabulary_of(str(tmp_path / "v.bin"))
    with pytest.raises(UserError, match="no vocabulary file"):
        show_tasks.vocabulary_of(str(tmp_path / "none.model"))


def test_colour_on_a_terminal_says_the_same_without_brackets(monkeypatch):
    def on_terminal(**options):
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, width=100, highlight=False, markup=False, **options)
        monkeypatch.setattr(show_tasks, "console", lambda: console)
        show_tasks.tasks("shown_labels", examples=1)
        return out.getvalue()

    coloured = on_terminal(color_system="standard")
    assert "\x1b[1;34mparity: \x1b[0m1" in coloured
    assert "{parity: }" not in coloured
    assert "{parity: }1" in on_terminal(color_system="standard", no_color=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("shown_spam", {}, r"'shown_spam'\. Nearest: shown_span"),
        ("shown_span", {"split": "trian"}, r"no split 'trian' \(--split\); it has train"),
        (None, {"filter": "zebra"}, r"name contains 'zebra' \(--filter\)"),
    ],
)
def test_mistakes_are_told_before_anything_is_shown(capsys, name, options, message):
    with pytest.raises(UserError, match=message):
        show_tasks.tasks(name, **options)
    assert capsys.readouterr().out == ""


def test_objectives_are_shown_in_a_way_of_their_own(capsys):
    texts = source({"targets": ["Return the sum of all elements. The axis may be None. It is kept."]})
    both, pair = objectives.text_features(Bytes()), objectives.encoder_features(Bytes(), types=True)
    for name, features, objective, wanted in (
        ("shown_mass", both, objectives.masked_denoising, ["text, with the tokens that the inputs hide", "[MASK: "]),
        ("shown_permuted", both, objectives.sentence_permutation, ["[1]Return the sum", "[3] It is kept."]),
        (
            "shown_order",
            pair,
            objectives.masked_lm_with_sentence_order,
            ["the answer about", "type 0, as", "type 1, as"],
        ),
    ):
        seqio.TaskRegistry.add(
            name, source=texts, output_features=features, preprocessors=[seqio.preprocessors.tokenize, objective]
        )
        try:
            out = text_of(capsys, name, examples=1, inputs_length=96)
        finally:
            seqio.TaskRegistry.remove(name)
        assert all(part in out for part in wanted), out
        assert "types 9" not in out


def test_bad_records_are_counted(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\nbroken\n{"text": "good too"}\n')
    lines = sources.jsonl(tmp_path / "a.jsonl", on_bad="skip")
    tasks.add("shown_bad", source=lines, targets="text", replace=True)
    try:
        assert re.search(r"bad records +1, skipped", text_of(capsys, "shown_bad", examples=1))
    finally:
        seqio.TaskRegistry.remove("shown_bad")

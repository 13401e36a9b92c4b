"""Labels, tags and spans stand where they belong, in the frame that inference gives its texts too."""

import numpy as np
import pytest
import tensorflow as tf
from tokenizers import processors

from t2t.decode import answer_text
from t2t.errors import UserError
from t2t.tasks.objectives import classify, find_span, label_features, span_features, tag_words
from t2t.vocabularies import Bytes, Tokenizer
from tests.tasks.objectives.conftest import WORDS
from tests.test_tokenizer import byte_level

LABELS = ("O", "B-X", "I-X")


@pytest.fixture
def roberta(tmp_path):
    """A tokenizer as RoBERTa's: <s> first </s></s> second </s>."""
    library = byte_level(tmp_path / "tokenizer.json", special=("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    sep, cls = ((name, library.token_to_id(name)) for name in ("</s>", "<s>"))
    library.post_processor = processors.RobertaProcessing(sep, cls)
    library.save(str(tmp_path / "tokenizer.json"))
    return Tokenizer(path=str(tmp_path / "tokenizer.json"), eos="</s>", pad="<pad>", cls="<s>", sep="</s>")


@pytest.fixture(params=["bytes", "wordpiece", "roberta"])
def framed(request):
    """Vocabularies without and with [CLS] and [SEP], and with two [SEP] in the middle."""
    return Bytes() if request.param == "bytes" else request.getfixturevalue(request.param)


def test_two_separators_stand_between_the_texts_of_a_robertas_pair(roberta):
    sep = roberta.sep_id
    first, second = roberta.encode("the row"), roberta.encode("a model")
    wanted = [roberta.cls_id, *first, sep, sep, *second, sep]
    assert answer_text._framed(roberta, "the row", "a model").ids == wanted
    assert roberta.library().encode("the row", "a model").ids == wanted
    assert answer_text._framed(roberta, "the row", None).ids == [roberta.cls_id, *first, sep]
    features = label_features(roberta, labels=("no", "yes"), of="text", types=True)
    fields = {"inputs": ["the row " * 9], "second": ["a model"], "targets": ["no"]}
    (cut,) = made(classify, features, fields, length=24, labels=("no", "yes"))
    assert len(cut["inputs"]) == 24
    assert cut["inputs"].tolist()[-len(second) - 3 :] == [sep, sep, *second, sep]


def made(objective, features, fields, *, length=None, **options):
    """Return the examples that an objective makes of texts; `inputs` are tokenised as SeqIO would."""
    vocabulary = features["inputs"].vocabulary
    dataset = tf.data.Dataset.from_tensor_slices(fields)
    dataset = dataset.map(
        lambda e: {**e, "inputs_pretokenized": e["inputs"], "inputs": vocabulary.encode_tf(e["inputs"])}
    )
    found = list(
        objective(dataset, None if length is None else {"inputs": length}, features, **options).as_numpy_iterator()
    )
    for example in found:
        sizes = {len(example[name]) for name in features}
        assert len(sizes) == 1
        assert all(example[name].dtype == np.int32 for name in features)
        assert length is None or max(sizes) <= length
    return found


def test_a_label_is_predicted_at_the_first_token_and_pairs_have_types(framed):
    features = label_features(framed, labels=("no", "yes"), of="text", types=True)
    texts = {"inputs": ["the row", "a"], "second": ["a model reads", "it"], "targets": ["yes", "<unk>"]}
    one, hidden = made(classify, features, texts, labels=("no", "yes"))
    expected = answer_text._framed(framed, "the row", "a model reads")
    assert one["inputs"].tolist() == expected.ids
    assert one["types"].tolist() == expected.types
    assert one["types"].sum() == len(framed.encode("a model reads")) + 1
    assert np.flatnonzero(one["weights"]).tolist() == [0]
    assert one["targets"][0] == 1
    assert not hidden["weights"].any()


def test_of_a_pair_the_longer_text_loses_its_end(wordpiece):
    features = label_features(wordpiece, labels=("no", "yes"), of="text", types=True)
    fields = {"inputs": ["the", "the " * 9], "second": ["row " * 9, "row"], "targets": ["no", "no"]}
    trimmed = made(classify, features, fields, length=9, labels=("no", "yes"))
    for example, sizes in zip(trimmed, [(3, 6), (7, 2)], strict=True):
        assert tuple(np.bincount(example["types"])) == sizes
        assert len(example["inputs"]) == 9
        assert example["inputs_trimmed"] == 4
        assert example["inputs"][-1] == wordpiece.sep_id
    with pytest.raises(UserError, match="inputs_length=4 is too short for classify"):
        made(classify, features, fields, length=4, labels=("no", "yes"))


def test_tags_stand_at_the_first_token_of_their_words(framed):
    features = label_features(framed, labels=LABELS, of="word")
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, size)) for size in (1, 4, 12)]
    tags = [random.integers(3, size=len(text.split())) for text in texts]
    fields = {"inputs": texts, "targets": [" ".join(LABELS[i] for i in some) for some in tags]}
    for example, text, some in zip(made(tag_words, features, fields, labels=LABELS), texts, tags, strict=True):
        expected = answer_text._framed_words(framed, None, text)
        assert example["inputs"].tolist() == expected.ids
        assert np.flatnonzero(example["weights"]).tolist() == expected.starts[:-1]
        assert example["targets"][expected.starts[:-1]].tolist() == some.tolist()
    (cut,) = made(tag_words, features, {key: value[-1:] for key, value in fields.items()}, length=8, labels=LABELS)
    assert cut["weights"][-1] == 0
    assert cut["inputs_trimmed"] == len(expected.ids) - 8


@pytest.mark.parametrize(
    ("tags", "said"),
    [("O O", "2 labels for 3 words, in 'the row reads'"), ("O B-Y O", "'B-Y' is not one of the labels O, B-X")],
)
def test_words_without_their_labels_are_refused(tags, said):
    features = label_features(Bytes(), labels=LABELS, of="word")
    with pytest.raises(tf.errors.OpError, match=said):
        made(tag_words, features, {"inputs": ["the row reads"], "targets": [tags]}, labels=LABELS)


def test_a_span_is_the_words_that_the_answer_touches(framed):
    """For answers that begin and end anywhere in random texts, given by their place or as the first of their kind."""
    features = span_features(framed, types=True)
    random = np.random.default_rng(0)
    texts = ["  ".join(random.choice(WORDS, 9)) for _ in range(40)]
    starts = [int(random.integers(len(text) - 12)) for text in texts]
    ends = [start + int(random.integers(1, 12)) for start in starts]
    found = [text[a:b] for text, a, b in zip(texts, starts, ends, strict=True)]
    kept = [i for i, answer in enumerate(found) if answer == answer.strip()]
    fields = {"inputs": ["of the row"], "second": texts, "targets": found, "start": starts}
    fields = {key: [value[i % len(value)] for i in kept] for key, value in fields.items()}
    examples = made(find_span, features, fields)
    assert len(examples) > 10
    for example, text, start, answer in zip(
        examples, fields["second"], fields["start"], fields["targets"], strict=True
    ):
        expected = answer_text._framed_words(framed, "of the row", text)
        assert example["inputs"].tolist() == expected.ids
        assert example["types"].tolist() == expected.types
        assert np.flatnonzero(example["weights"]).tolist() == [0, 1]
        begin = len((text[:start] + "x").split()) - 1
        end = len(text[: start + len(answer)].split())
        assert example["targets"][:2].tolist() == [expected.starts[begin], expected.starts[end] - 1]
    first = made(find_span, features, {key: value for key, value in fields.items() if key != "start"})
    for example, text, answer in zip(first, fields["second"], fields["targets"], strict=True):
        expected = answer_text._framed_words(framed, "of the row", text)
        assert example["targets"][0] == expected.starts[len((text[: text.index(answer)] + "x").split()) - 1]


def test_an_answer_that_is_not_there_is_none_or_refused(wordpiece):
    features = span_features(wordpiece)
    text = "the model reads a row of tokens"
    fields = {"inputs": ["what", "what"], "second": [text, text], "targets": ["", "tokens"], "start": [0, 25]}
    none, cut = made(find_span, features, fields, length=8)
    assert none["targets"][:2].tolist() == cut["targets"][:2].tolist() == [0, 0]
    assert cut["weights"][:3].tolist() == [1, 1, 0]
    with pytest.raises(tf.errors.OpError, match="the answer 'tokens' is not at character 24 of 'the model reads"):
        made(find_span, features, {**fields, "start": [0, 24]})
    with pytest.raises(tf.errors.OpError, match="the answer 'sentinels' is not at character"):
        made(find_span, features, {"inputs": ["what"], "second": [text], "targets": ["sentinels"]})

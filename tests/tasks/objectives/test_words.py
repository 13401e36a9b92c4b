import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from t2t.errors import UserError
from t2t.tasks.objectives.words import Words, token_offsets, token_texts
from t2t.vocabularies import Bytes, SentencePiece, Tokenizer

TEXT = "the model reads a row, and it writes tokens (two)."


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("byte_level") / "tokenizer.json"
    library = tokenizers.ByteLevelBPETokenizer()
    library.train_from_iterator(texts, vocab_size=290, show_progress=False)
    library.add_special_tokens(["<|endoftext|>"])
    library.save(str(path))
    return Tokenizer(path=str(path), eos="<|endoftext|>", extra_ids=2)


@pytest.fixture(scope="module")
def every(byte_level, sentencepiece_path, wordpiece):
    return {
        "bytes": Bytes(),
        "sentencepiece": SentencePiece(path=sentencepiece_path, extra_ids=10),
        "byte_level": byte_level,
        "wordpiece": wordpiece,
    }


def divided(vocabulary, text, borders):
    ids = vocabulary.encode(text)
    starts = borders(Words(vocabulary))(tf.constant(ids, tf.int32)).numpy()
    parts = np.split(ids, np.flatnonzero(starts))
    return ["".join(token_texts(vocabulary)[i] for i in part).strip() for part in parts if len(part)]


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "byte_level"])
def test_words_are_divided_at_spaces_and_marks(every, kind):
    text = TEXT if kind != "sentencepiece" else "the model reads a row and it writes two"  # its pieces know no marks
    wanted = ["the", "model", "reads", "a", "row", ",", "and", "it", "writes", "tokens", "(", "two", ")", "."]
    found = divided(every[kind], text, lambda words: words.starts)
    assert found == (wanted if kind != "sentencepiece" else text.split())


def test_pieces_of_a_word_of_wordpiece_belong_together(wordpiece):
    assert divided(wordpiece, "the models reads rows of tokens", lambda words: words.starts) == [
        "the",
        "models",
        "reads",
        "rows",
        "of",
        "tokens",
    ]
    assert len(wordpiece.encode("models rows")) == 4


def test_special_tokens_are_words_of_their_own(wordpiece):
    ids = [wordpiece.cls_id, *wordpiece.encode("models"), wordpiece.sep_id, wordpiece.unk_id]
    assert Words(wordpiece).starts(tf.constant(ids)).numpy().tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("kind", ["bytes", "byte_level"])
def test_sentences_end_at_full_stops_before_space_and_at_empty_lines(every, kind):
    text = "Sum of a.b over x. Is it? Yes\n\nArgs:\n  x: 1.5 or more!\nEnd"
    assert divided(every[kind], text, lambda words: words.sentences) == [
        "Sum of a.b over x.",
        "Is it?",
        "Yes",
        "Args:\n  x: 1.5 or more!",
        "End",
    ]


@pytest.mark.parametrize("kind", ["bytes", "byte_level", "wordpiece"])
def test_tokens_are_located_in_their_text(every, kind):
    vocabulary, text = every[kind], "the naïve model, two rows"
    same, places = token_offsets(vocabulary, text)
    ids = vocabulary.encode(text)
    assert same == text
    assert len(places) == len(ids)
    at = [i for i, (start, end) in enumerate(places) if start < text.index("two") + 3 and end > text.index("two")]
    assert vocabulary.decode([ids[i] for i in at]).strip() == "two"


def test_sentencepiece_locates_tokens_in_what_it_normalised(every):
    vocabulary = every["sentencepiece"]
    text, places = token_offsets(vocabulary, "the  model\nreads")
    assert text == " the model reads"
    assert [text[start:end] for start, end in places] == [
        token_texts(vocabulary)[i] for i in vocabulary.encode("the  model\nreads")
    ]


def test_a_tokenizer_whose_pieces_tell_no_words_is_refused(byte_level, tmp_path):
    content = json.loads(Path(byte_level.path).read_text(encoding="utf-8"))
    content["decoder"] = {"type": "Fuse"}
    (tmp_path / "other.json").write_text(json.dumps(content))
    vocabulary = Tokenizer(path=str(tmp_path / "other.json"), eos="<|endoftext|>")
    with pytest.raises(
        UserError,
        match=r"the word boundaries of .* are unknown: its decoder is Fuse; supported decoders are ByteLevel, Metaspace",
    ):
        Words(vocabulary)

"""Marks show what was done to a text: every token of it, in order, in colour or in brackets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2t.launch import marks
from t2t.launch.marks import Piece
from t2t.vocabularies import Bytes, SentencePiece

BYTES = Bytes(extra_ids=10)
SENTENCE = "the quick brown fox jumps over the lazy dog and the naïve cat sat on the mat"


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    import sentencepiece as library

    path = tmp_path_factory.mktemp("vocabulary") / "small"
    library.SentencePieceTrainer.train(
        sentence_iterator=iter([SENTENCE] * 20),
        model_prefix=str(path),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return SentencePiece(path=f"{path}.model", extra_ids=10)


def shown(pieces, *, colour=False):
    return marks.render(pieces, colour=colour).plain


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_the_texts_of_tokens_are_the_text(text):
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        return
    assert "".join(marks.texts(BYTES.encode(text), BYTES)) == text


def test_the_texts_of_pieces_keep_the_spaces_between_words(sentencepiece):
    ids = sentencepiece.encode(SENTENCE)
    of_tokens = marks.texts(ids, sentencepiece)
    assert "".join(of_tokens) == SENTENCE
    assert len(of_tokens) == len(ids)


def test_special_tokens_have_names():
    ids = [BYTES.sentinel(0), BYTES.sentinel(9), BYTES.eos_id, BYTES.pad_id, BYTES.unk_id, BYTES.size + 5, ord("a") + 3]
    assert marks.texts(ids, BYTES) == [
        "<extra_id_0>",
        "<extra_id_9>",
        "</s>",
        "<pad>",
        "<unk>",
        f"<id {BYTES.size + 5}>",
        "a",
    ]


@pytest.mark.parametrize("over", ["bytes", "sentencepiece"])
def test_span_corruption_is_put_together_with_every_token_in_place(over, request):
    vocabulary = BYTES if over == "bytes" else request.getfixturevalue("sentencepiece")
    ids, first, second = vocabulary.encode(SENTENCE), slice(3, 6), slice(10, 12)
    zero, one = vocabulary.sentinel(0), vocabulary.sentinel(1)
    inputs = [*ids[:3], zero, *ids[6:10], one, *ids[12:], vocabulary.eos_id]
    targets = [zero, *ids[first], one, *ids[second], vocabulary.eos_id]
    assert marks.is_corrupted(inputs, targets, vocabulary)
    pieces = marks.corrupted(inputs, targets, vocabulary)
    assert [piece.mark for piece in pieces] == [
        "text",
        "sentinel",
        "noise",
        "text",
        "sentinel",
        "noise",
        "text",
        "special",
    ]
    assert "".join(piece.text for piece in pieces if piece.mark in ("text", "noise")) == SENTENCE
    assert [piece.text for piece in pieces if piece.mark == "sentinel"] == ["<extra_id_0>", "<extra_id_1>"]
    assert "".join(marks.texts(ids[first], vocabulary)).strip() == pieces[2].text.strip()


def test_no_token_of_a_malformed_corruption_is_left_out():
    a, b, c, d = (BYTES.encode(letter)[0] for letter in "abcd")
    pieces = marks.corrupted([a, BYTES.sentinel(0), b], [c, BYTES.sentinel(5), d], BYTES)
    assert shown(pieces) == "a[<extra_id_0>]b[c][<extra_id_5>: d]"


def test_supervised_texts_are_not_taken_for_corrupted_ones():
    inputs, targets = BYTES.encode("a b"), BYTES.encode("b a")
    assert not marks.is_corrupted(inputs, targets, BYTES)
    assert not marks.is_corrupted([BYTES.sentinel(0), *inputs], targets, BYTES)
    assert not marks.is_corrupted(inputs, [], BYTES)


def test_masked_language_modelling_shows_what_is_seen_and_what_is_wanted():
    targets = [*BYTES.encode("the cat"), BYTES.eos_id]
    inputs = list(targets)
    inputs[0] = inputs[1] = BYTES.mask_id
    inputs[4] = BYTES.encode("x")[0]
    weights = [1, 1, 0, 0, 1, 0, 1, 0]
    pieces = marks.masked(inputs, targets, weights, BYTES)
    assert shown(pieces) == "[MASK: th]e [x -> c]a[= t]</s>"
    assert shown(pieces, colour=True) == "the xcat</s>"


def test_a_mark_on_part_of_a_character_is_seen():
    targets = BYTES.encode("aï")
    inputs = [targets[0], BYTES.mask_id, targets[2]]
    assert shown(marks.masked(inputs, targets, [0, 1, 0], BYTES)) == "a[MASK: �]ï"


def test_prefix_is_marked_only_where_the_text_begins_with_it():
    ids = [*BYTES.encode("sum: 1 2"), BYTES.eos_id]
    assert shown(marks.plain(ids, BYTES, prefix="sum: ")) == "{sum: }1 2</s>"
    assert shown(marks.plain(ids, BYTES, prefix="add: ")) == "sum: 1 2</s>"
    assert shown(marks.plain(ids[:5], BYTES, prefix="sum: ")) == "{sum: }"
    assert shown(marks.plain([], BYTES, prefix="sum: ")) == ""


def test_a_text_cannot_drive_the_terminal():
    pieces = [
        Piece("a\x1b[31m\x07\x7f\x9b\r\n\tb", "text"),
        Piece("\x1b]0;x", "masked"),
        Piece("c", "replaced", "\x1b"),
    ]
    for colour in (True, False):
        text = shown(pieces, colour=colour)
        assert not set(text) & {"\x1b", "\x07", "\x7f", "\x9b", "\r"}
        assert "␛[31m␇␡\ufffd␍\n\tb" in text


def test_line_breaks_are_seen_where_colour_would_not_show_them():
    pieces = [Piece("a\n", "text"), Piece("\nb", "noise")]
    assert shown(pieces, colour=True) == "a\n⏎\nb"


def test_dropped_tokens_are_put_back_in_their_place():
    kept = [*BYTES.encode("th ct"), BYTES.eos_id]
    assert shown(marks.dropped(kept, BYTES.encode("ea"), [0, 0, 1, 0, 0, 1, 0], BYTES)) == "th[e] c[a]t</s>"


def test_moved_sentences_have_their_numbers():
    ids = [*BYTES.encode(" B c. A."), BYTES.eos_id]
    assert shown(marks.permuted(ids, [1] * 5 + [0] * 3, BYTES)) == "[2] B c.[1] A.</s>"


def test_masks_for_any_number_of_tokens_and_sentinels_of_the_text_itself():
    ids = [*BYTES.encode("a "), BYTES.mask_id, *BYTES.encode("c"), BYTES.eos_id]
    assert shown(marks.infilled(ids, BYTES)) == "a [MASK]c</s>"
    ids = [BYTES.sentinel(0), *BYTES.encode("a"), BYTES.sentinel(1), *BYTES.encode("b")]
    assert shown(marks.plain(ids, BYTES)) == "[<extra_id_0>]a[<extra_id_1>]b"


def test_the_legend_tells_the_marks_that_were_used():
    assert marks.legend(set(), colour=True).plain == ""
    assert marks.legend({"text", "special"}, colour=False).plain == ""
    assert "masked" in marks.legend({"masked"}, colour=True).plain
    assert (
        marks.legend({"prefix", "sentinel", "noise"}, colour=False).plain
        == "{prefix}   [sentinel: missing from the inputs, to predict]"
    )

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2t.config import fingerprint, from_json, identifying, to_json
from t2t.errors import UserError
from t2t.vocabularies import Bytes, Characters, SentencePiece, Tokenizer, Vocabulary, WordPiece

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "un", "##aff", "##able", "run", ",", "é"]


def trained(path: Path, **options) -> str:
    import sentencepiece

    texts = [
        f"the quick brown fox number {n} jumps over the lazy dog; again and again, {n * n} times" for n in range(400)
    ]
    settings = {
        "pad_id": 0,
        "eos_id": 1,
        "unk_id": 2,
        "bos_id": -1,
        "byte_fallback": True,
        "minloglevel": 2,
        "vocab_size": 380,
    }
    with path.open("wb") as out:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=out, **{**settings, **options}
        )
    return str(path)


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("spm") / "spiece.model")


@pytest.fixture
def vocab_txt(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in VOCAB), encoding="utf-8")
    return str(path)


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_bytes_round_trip(text):
    vocabulary = Bytes()
    ids = vocabulary.encode(text)
    assert ids == [byte + 3 for byte in text.encode()]
    assert vocabulary.decode(ids) == text


def test_characters_round_trip_and_others_are_unknown():
    vocabulary = Characters.of("hello, world\n")
    assert vocabulary.characters == "\n ,dehlorw"
    assert vocabulary.size == 3 + 10
    assert vocabulary.encode("\n ,") == [3, 4, 5]
    assert vocabulary.decode(vocabulary.encode("lower\nworld")) == "lower\nworld"
    assert vocabulary.encode("hx") == [vocabulary.encode("h")[0], vocabulary.unk_id]
    assert Characters(characters="ab", extra_ids=2).decode([3, 6, 5, 4]) == "a<extra_id_0><extra_id_1>b"
    assert from_json(to_json(vocabulary)) == vocabulary
    for wrong, message in (("", "at least one character"), ("aba", "has 'a' more than once. Nearest: 'ab'")):
        with pytest.raises(UserError, match=message):
            Characters(characters=wrong)


def test_decode_stops_at_eos_leaves_out_padding_and_prints_sentinels():
    vocabulary = Bytes(extra_ids=10)
    a, b = vocabulary.encode("ab")
    assert vocabulary.decode([0, a, 0, vocabulary.sentinel(3), b, 1, a]) == "a<extra_id_3>b"
    assert vocabulary.decode([a, vocabulary.size + 7, b]) == "ab"
    assert vocabulary.decode([a, vocabulary.unk_id, b]) == "ab"


@pytest.mark.parametrize("extra_ids", [1, 7, 100])
def test_sentinels_count_down_from_the_largest_id(extra_ids, spm, vocab_txt):
    for vocabulary in (
        Bytes(extra_ids=extra_ids),
        SentencePiece(path=spm, extra_ids=extra_ids),
        WordPiece(path=vocab_txt, extra_ids=extra_ids),
    ):
        assert [vocabulary.sentinel(i) for i in range(extra_ids)] == list(range(vocabulary.size))[: -extra_ids - 1 : -1]
        assert vocabulary.decode([vocabulary.sentinel(0)]).strip() == "<extra_id_0>"
        for beyond in (extra_ids, -1):
            with pytest.raises(UserError, match=f"<extra_id_{beyond}>"):
                vocabulary.sentinel(beyond)


def test_encode_marked(spm, vocab_txt):
    byte = Bytes()
    assert byte.encode_marked("a<extra_id_1>[MASK]") == [*byte.encode("a"), byte.sentinel(1), byte.mask_id]
    assert byte.encode("<extra_id_1>") == [ord(c) + 3 for c in "<extra_id_1>"]
    piece = SentencePiece(path=spm, extra_ids=4)
    marked = piece.encode_marked("the fox<extra_id_0> jumps")
    assert marked == [*piece.encode("the fox"), piece.sentinel(0), *piece.encode(" jumps")]
    word = WordPiece(path=vocab_txt)
    assert word.encode_marked("the [MASK]") == word.encode("the [MASK]") == [5, 4]
    with pytest.raises(UserError, match="has no mask"):
        Bytes(extra_ids=0).encode_marked("[MASK]")
    with pytest.raises(UserError, match="<extra_id_100>"):
        byte.encode_marked("<extra_id_100>")


def test_a_sentinel_or_mask_glued_to_a_word_is_one_all_the_same(spm):
    vocabulary = SentencePiece(path=spm, extra_ids=4)
    spaced = vocabulary.encode_marked("the fox <extra_id_0>jumps <extra_id_1> <extra_id_3>.")
    assert vocabulary.encode_marked("the fox<extra_id_0>jumps<extra_id_1><extra_id_3>.") == spaced
    assert vocabulary.mask_id == vocabulary.sentinel(3)
    assert vocabulary.encode_marked("the fox<extra_id_0>jumps<extra_id_1>[MASK].") == spaced


def test_a_piece_that_is_the_mask_takes_the_space_before_it(tmp_path):
    path = trained(tmp_path / "mask.model", user_defined_symbols=["[MASK]"])
    vocabulary = SentencePiece(path=path, extra_ids=5)
    marked = vocabulary.encode_marked("the fox [MASK] over.")
    assert marked == [*vocabulary.encode("the fox"), vocabulary.mask_id, *vocabulary.encode("over.")]
    assert vocabulary.encode_marked("[MASK]. again")[0] == vocabulary.mask_id


@pytest.mark.parametrize("digits", [1, 4, 5000])
def test_a_sentinel_of_any_number_of_digits_is_refused_in_one_line(digits, spm, vocab_txt):
    for vocabulary in (Bytes(), SentencePiece(path=spm, extra_ids=4), WordPiece(path=vocab_txt)):
        with pytest.raises(UserError, match="<extra_id_9") as caught:
            vocabulary.encode_marked(f"the <extra_id_{'9' * max(digits, 3)}> fox")
        assert len(str(caught.value)) < 400


def test_a_mask_keeps_the_flags_that_its_file_gives_it(vocab_txt, tmp_path):
    from tokenizers import AddedToken, BertWordPieceTokenizer
    from tokenizers import Tokenizer as Library

    path = tmp_path / "tokenizer.json"
    BertWordPieceTokenizer(vocab_txt, lowercase=True).save(str(path))
    library = Library.from_file(str(path))
    library.add_special_tokens([AddedToken("[MASK]", special=True, single_word=True)])
    library.save(str(path))
    assert (
        WordPiece(path=str(path)).encode("the [MASK]s") == library.encode("the [MASK]s", add_special_tokens=False).ids
    )
    assert WordPiece(path=vocab_txt).encode("the [MASK]s") != WordPiece(path=str(path)).encode("the [MASK]s")


def test_the_mask_is_no_ordinary_id(spm, vocab_txt):
    assert Bytes(extra_ids=100).mask_id == 259
    assert Bytes(extra_ids=0).mask_id is None
    assert SentencePiece(path=spm).mask_id is None
    assert SentencePiece(path=spm, extra_ids=5).mask_id == 380
    assert WordPiece(path=vocab_txt).mask_id == 4


def test_a_mask_in_the_model_is_found(tmp_path):
    path = trained(tmp_path / "mask.model", user_defined_symbols=["[MASK]"])
    vocabulary = SentencePiece(path=path, extra_ids=5)
    assert vocabulary.decode([vocabulary.mask_id]).strip() == "[MASK]"
    assert vocabulary.mask_id < vocabulary.size - 5


@settings(deadline=None, max_examples=30)
@given(st.text(alphabet=st.characters(exclude_categories=["C", "Z"]), min_size=1))
def test_sentencepiece_with_byte_fallback_loses_nothing_but_normalisation(spm, text):
    vocabulary = SentencePiece(path=spm, extra_ids=3)
    once = vocabulary.decode(vocabulary.encode(text))
    assert vocabulary.decode(vocabulary.encode(once)) == once
    assert vocabulary.unk_id not in vocabulary.encode(text)


def test_wordpiece_is_longest_match_first(vocab_txt):
    vocabulary = WordPiece(path=vocab_txt)
    ids = vocabulary.encode("The CATS, unaffable")
    assert [VOCAB[i] for i in ids] == ["the", "cat", "##s", ",", "un", "##aff", "##able"]
    assert vocabulary.decode(ids) == "the cats, unaffable"
    assert [VOCAB[i] for i in vocabulary.encode("dog")] == ["[UNK]"]
    assert (vocabulary.cls_id, vocabulary.sep_id, vocabulary.eos_id, vocabulary.bos_id) == (2, 3, 3, 2)
    assert [VOCAB[i] for i in WordPiece(path=vocab_txt, lowercase=False).encode("The é")] == ["[UNK]", "é"]
    assert vocabulary.decode([2, *ids, 3, 5]) == "the cats, unaffable"


def test_wordpiece_reads_a_tokenizer_json(vocab_txt, tmp_path):
    from tokenizers import BertWordPieceTokenizer

    path = tmp_path / "tokenizer.json"
    BertWordPieceTokenizer(vocab_txt, lowercase=True).save(str(path))
    text = "The cats, unaffable [MASK] runs"
    assert WordPiece(path=str(path)).encode(text) == WordPiece(path=vocab_txt).encode(text)
    assert WordPiece(path=str(path)).size == len(VOCAB)


def test_a_vocabulary_is_configuration(spm, vocab_txt):
    for vocabulary in (Bytes(extra_ids=3), SentencePiece(path=spm, extra_ids=2), WordPiece(path=vocab_txt)):
        assert from_json(json.loads(json.dumps(to_json(vocabulary)))) == vocabulary
        assert hash(vocabulary) == hash(from_json(to_json(vocabulary)))


def test_a_new_option_does_not_rename_derived_tasks_and_their_caches():
    known = {
        "58464b9bab2d": Bytes(),
        "64b19db47f27": SentencePiece(path="spiece.model", extra_ids=100),
        "eb8d268b77f7": Tokenizer(path="tokenizer.json", eos="</s>"),
    }
    for recorded, vocabulary in known.items():
        assert fingerprint(vocabulary) == recorded
        assert fingerprint(replace(vocabulary, forced=5)) != recorded
        assert "forced" not in identifying(vocabulary)
        assert "forced" in to_json(vocabulary)
    assert fingerprint(replace(vocabulary, add_cls=True)) != recorded


def test_relocated_copies_the_file_and_is_relative(spm, tmp_path):
    vocabulary = SentencePiece(path=spm, extra_ids=2)
    kept = vocabulary.relocated(str(tmp_path / "run"))
    assert kept.path == "spiece.model"
    there = kept.in_directory(str(tmp_path / "run"))
    assert there.encode("the fox") == vocabulary.encode("the fox")
    assert there.size == vocabulary.size
    assert vocabulary.relocated(str(tmp_path / "run")) == kept
    (tmp_path / "run" / "spiece.model").write_bytes(b"other")
    with pytest.raises(UserError, match="differs"):
        vocabulary.relocated(str(tmp_path / "run"))
    assert Bytes().relocated(str(tmp_path)).in_directory(str(tmp_path)) == Bytes()


def test_a_rewritten_file_is_read_again(vocab_txt):
    vocabulary = WordPiece(path=vocab_txt)
    before = vocabulary.size
    Path(vocab_txt).write_text("".join(f"{token}\n" for token in [*VOCAB, "dog"]), encoding="utf-8")
    assert vocabulary.size == before + 1


CHARSMAPS = {
    "no base64": "?",
    "too short": "/w==",
    "no trie": "AAAAAA==",
    "size beyond the end": "/////w==",
    "a path that leaves the trie": "CAAAAAAAAAAAAAAA",
    "texts that are not UTF-8": "CAAAAAAAAAAAAAAA/w==",
}
"""Base64 of what SentencePiece's normalisation is not."""


def _repeated(source: Path, out: Path) -> None:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    model = ModelProto.FromString(source.read_bytes())
    model.pieces[10].piece = model.pieces[11].piece
    out.write_bytes(model.SerializeToString())


def unfit(tmp_path: Path) -> dict[str, tuple[type[Vocabulary], str, str]]:
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    (tmp_path / "twice.txt").write_text("\n".join([*VOCAB, "the"]) + "\n")
    (tmp_path / "late.txt").write_text("\n".join(["the", *VOCAB[:5]]) + "\n")
    (tmp_path / "latin.txt").write_bytes(b"[PAD]\n\xe9\n")
    (tmp_path / "broken.json").write_text("{}")
    (tmp_path / "deep.json").write_text("[" * 100_000 + "]" * 100_000)
    (tmp_path / "nul.model").write_bytes(bytes(200))
    (tmp_path / "cut.model").write_bytes(Path(trained(tmp_path / "whole.model")).read_bytes()[:3000])
    _repeated(tmp_path / "whole.model", tmp_path / "again.model")
    for name, charsmap in CHARSMAPS.items():
        model = {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 9,
        }
        model["vocab"] = {token: i for i, token in enumerate(VOCAB)}
        normalizer = {"type": "Precompiled", "precompiled_charsmap": charsmap}
        (tmp_path / f"{name}.json").write_text(json.dumps({"version": "1.0", "normalizer": normalizer, "model": model}))
    return {
        **{name: (WordPiece, f"{name}.json", "precompiled_charsmap is damaged") for name in CHARSMAPS},
        "deep": (WordPiece, "deep.json", "not a tokenizer.json"),
        "NUL bytes": (SentencePiece, "nul.model", "not a SentencePiece model"),
        "cut short": (SentencePiece, "cut.model", "not a SentencePiece model"),
        "a piece twice": (SentencePiece, "again.model", "not a SentencePiece model"),
        "missing": (SentencePiece, "none.model", "none.model.*No such file"),
        "no model": (SentencePiece, "words.txt", "not a SentencePiece model"),
        "missing too": (WordPiece, "none.txt", "none.txt.*No such file"),
        "lacks specials": (WordPiece, "words.txt", r"lacks \[PAD\]"),
        "twice": (WordPiece, "twice.txt", f"twice.txt:{len(VOCAB) + 1}: duplicate token 'the', first on line 6"),
        "pad not 0": (WordPiece, "late.txt", r"\[PAD\] is id 1"),
        "not UTF-8": (WordPiece, "latin.txt", "not UTF-8"),
        "no tokenizer": (WordPiece, "broken.json", "not a tokenizer.json"),
    }


UNFIT = ["missing", "no model", "missing too", "lacks specials", "twice", "pad not 0", "not UTF-8", "no tokenizer"]
UNFIT += [*CHARSMAPS, "deep", "NUL bytes", "cut short", "a piece twice"]


@pytest.mark.parametrize("case", UNFIT)
def test_unfit_files_are_refused_in_one_line(case, tmp_path):
    kind, name, message = unfit(tmp_path)[case]
    with pytest.raises(UserError, match=message) as caught:
        _ = kind(path=str(tmp_path / name)).size
    assert "\n" not in str(caught.value)


def test_a_model_without_padding_or_eos_is_refused(tmp_path):
    usual = trained(tmp_path / "usual.model", pad_id=-1, unk_id=0, bos_id=1, eos_id=2)
    with pytest.raises(UserError, match="id 0 is '<unk>' and not padding"):
        _ = SentencePiece(path=usual).size
    endless = trained(tmp_path / "endless.model", eos_id=-1, unk_id=1)
    with pytest.raises(UserError, match="no end-of-sequence"):
        _ = SentencePiece(path=endless).size


def test_negative_extra_ids_and_broken_text_are_refused():
    with pytest.raises(UserError, match=r"extra_ids -1 \(Bytes\.extra_ids\)"):
        Bytes(extra_ids=-1)
    with pytest.raises(UserError, match="not valid Unicode"):
        Bytes().encode("a\ud800")


def test_no_tensorflow(spm, vocab_txt):
    program = (
        "import sys; from t2t.vocabularies import *;"
        f"SentencePiece(path={spm!r}).encode('a'); WordPiece(path={vocab_txt!r}).encode('a');"
        "assert not {'tensorflow', 'seqio', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])

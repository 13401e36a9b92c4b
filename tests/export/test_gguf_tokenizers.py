"""Tokenizers in GGUF files: ids after writing and reading, and those of SentencePiece itself."""

import io

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from t2t.errors import UserError
from t2t.export.gguf_tokenizer import BYTE, CONTROL, NORMAL, PRE, UNKNOWN, USER_DEFINED, write_tokenizer
from t2t.export.gguf_tokenizer_writing import add_tokenizer, scores_of
from t2t.export.token_check import TEXTS, marked
from t2t.export.tokenizer_files import read_vocabulary
from t2t.export.tokenizer_json import merges_of
from t2t.vocabularies import Bytes, Tokenizer
from t2t.vocabularies.library import added

gguf = pytest.importorskip("gguf", reason="the extra [gguf] is not installed")

CORPUS = [
    f"The quick brown fox {n} jumps over the lazy dog, don't {n * n}!  we'll see\n\n 3.14" for n in range(100)
] + ["naïve café 日本語 Привет", " two  and   three spaces", "def f(x):\n    return x"]
ROWS = 520


def byte_level(splitting):
    """Train a byte-level BPE with control tokens and a user-defined one."""
    library = Library(models.BPE(ignore_merges=splitting.whole_parts))
    splitting.apply(library)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator(CORPUS, trainer)
    library.add_special_tokens([AddedToken(token, normalized=False) for token in ("<|begin|>", "<|end|>")])
    library.add_tokens([AddedToken("<think>", normalized=False)])
    return library


@pytest.fixture(scope="module")
def pieces():
    """A SentencePiece model of the kind of LLaMA 2, and its pieces with scores and types."""
    import sentencepiece
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=out,
        model_type="bpe",
        vocab_size=450,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    proto = ModelProto.FromString(out.getvalue())
    return processor, [(piece.piece, piece.score, piece.type) for piece in proto.pieces]


def sentencepiece_library(pieces, *, prefix, more=()):
    """Return the tokenizer.json of such a model, as published for LLaMA 2 (with prefix) or Gemma."""
    ids = {name: i for i, (name, _, _) in enumerate(pieces)}
    library = Library(models.BPE(ids, merges_of(pieces, ids), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", "▁")
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    if not prefix:
        library.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = [name for name, _, kind in pieces if kind in (UNKNOWN, CONTROL)]
    library.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    library.add_tokens([AddedToken(name, normalized=False) for name in more])
    return library


def vocabulary_of(library, place, **roles):
    place.mkdir(exist_ok=True)
    library.save(str(place / "tokenizer.json"))
    return Tokenizer(path=str(place / "tokenizer.json"), **roles)


def through_file(vocabulary, place):
    """Write a tokenizer to a GGUF file. Return the metadata, the vocabulary that is read from it, and the notes."""
    place.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(str(place / "x.gguf"), "llama")
    notes = add_tokenizer(writer, vocabulary, ROWS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    fields = {name: field.contents() for name, field in gguf.GGUFReader(place / "x.gguf").fields.items()}
    return fields, read(fields, place), notes


def read(fields, place):
    place.mkdir(exist_ok=True)
    write_tokenizer(fields, place, "x.gguf")
    return read_vocabulary(place, {"model_type": "llama"}, scratch=place)


def assert_same_ids(ours, theirs, texts):
    for text in texts:
        assert ours.encode(text) == theirs.encode(text), text


@pytest.mark.parametrize("pre", PRE)
def test_a_byte_level_tokenizer_is_read_back(pre, tmp_path):
    vocabulary = vocabulary_of(byte_level(PRE[pre]), tmp_path / "a", eos="<|end|>", bos="<|begin|>", add_bos=True)
    fields, back, notes = through_file(vocabulary, tmp_path / "b")
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) == ("gpt2", pre)
    number = vocabulary.library().token_to_id
    assert fields["tokenizer.ggml.token_type"][number("<think>")] == USER_DEFINED
    assert fields["tokenizer.ggml.token_type"][number("<|end|>")] == CONTROL
    assert_same_ids(back, vocabulary, [*TEXTS, *marked(added(vocabulary.library()))])
    assert (back.eos_id, back.bos_id, back.prepends_bos) == (vocabulary.eos_id, vocabulary.bos_id, True)
    assert ["NFC" in note for note in notes] == [True] * (pre == "qwen2")


def test_digits_are_split_as_the_name_says():
    library, found = Library(models.BPE()), {}
    for pre, splitting in PRE.items():
        splitting.apply(library)
        found[pre] = [text for text, _ in library.pre_tokenizer.pre_tokenize_str("x 12345")]
    assert found == {
        "gpt-2": ["x", "Ġ12345"],
        "smollm": ["x", "Ġ", "1", "2", "3", "4", "5"],
        "llama-bpe": ["x", "Ġ", "123", "45"],
        "qwen2": ["x", "Ġ", "1", "2", "3", "4", "5"],
    }


def test_a_part_that_is_a_token_stays_whole(tmp_path):
    ids = {token: i for i, token in enumerate(["a", "b", "c", "bc", "abc", "<|end|>"])}
    library = Library(models.BPE(ids, [("b", "c")], ignore_merges=True))
    PRE["llama-bpe"].apply(library)
    library.add_special_tokens(["<|end|>"])
    vocabulary = vocabulary_of(library, tmp_path / "a", eos="<|end|>")
    assert vocabulary.encode("abc") == [4]
    assert through_file(vocabulary, tmp_path / "b")[1].encode("abc") == [4]


def test_scores_give_the_ids_of_sentencepiece(pieces, tmp_path):
    """A file like those of llama.cpp's converter, with the scores of the SentencePiece model."""
    processor, known = pieces
    names, scores, kinds = map(list, zip(*known, strict=True))
    fields = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    assert {NORMAL, UNKNOWN, CONTROL, BYTE} == set(kinds)
    vocabulary = read(fields, tmp_path)
    assert_same_ids(vocabulary, processor, TEXTS)
    assert vocabulary.prepends_bos  # as in llama.cpp, if the file does not say it
    assert vocabulary.decode(vocabulary.encode(" naïve  🙂")) == " naïve  🙂"
    assert vocabulary.encode("<s>") == [1]


@pytest.mark.parametrize("prefix", [True, False])
def test_a_tokenizer_of_sentencepiece_is_read_back(prefix, pieces, tmp_path):
    processor, known = pieces
    library = sentencepiece_library(known, prefix=prefix, more=["<turn>", "▁▁▁▁▁▁▁▁"])
    vocabulary = vocabulary_of(library, tmp_path / "a", eos="</s>", bos="<s>", unk="<unk>", add_bos=True)
    fields, back, notes = through_file(vocabulary, tmp_path / "b")
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.add_space_prefix"]) == ("llama", prefix)
    assert not notes
    assert fields["tokenizer.ggml.tokens"][len(known) + 1] == " " * 8
    assert [kind for kind in fields["tokenizer.ggml.token_type"] if kind == BYTE] == [BYTE] * 256
    special = [name for name in added(vocabulary.library()) if "▁" not in name]
    assert_same_ids(back, vocabulary, [*TEXTS, *marked(special)])
    if prefix:
        assert_same_ids(back, processor, TEXTS)


def test_merges_that_scores_cannot_give_are_refused():
    vocab = {token: i for i, token in enumerate(["a", "b", "c", "ab", "bc", "abc", "<x>"])}
    merges = [["a", "b"], ["b", "c"], ["a", "bc"], ["ab", "c"]]
    assert scores_of({"vocab": vocab, "merges": merges}) == {"ab": 0.0, "bc": -1.0, "abc": -2.0}
    with pytest.raises(UserError, match=r"the merges of 'abc' do not follow each other; use convert"):
        scores_of({"vocab": {**vocab, "ca": 7}, "merges": [*merges[:3], ["c", "a"], merges[3]]})
    with pytest.raises(UserError, match=r"does not merge 'ab' and 'c', and llama\.cpp does"):
        scores_of({"vocab": vocab, "merges": merges[:3]})
    with pytest.raises(UserError, match=r"does not merge '<' and 'x>'"):
        scores_of({"vocab": {**vocab, "<": 7, "x>": 8}, "merges": merges})
    scores_of({"vocab": {**vocab, "<": 7, "x>": 8}, "merges": merges}, apart=["<x>"])


def test_other_tokenizers_are_refused(pieces, tmp_path):
    with pytest.raises(UserError, match=r"a vocabulary Bytes is not a BPE tokenizer\.json; use convert_hf_to_gguf"):
        add_tokenizer(None, Bytes(), ROWS)
    changes = {
        "first": lambda library: setattr(library, "pre_tokenizer", pre_tokenizers.Metaspace(prepend_scheme="first")),
        "lower": lambda library: setattr(library, "normalizer", normalizers.Lowercase()),
    }
    for name, change in changes.items():
        library = sentencepiece_library(pieces[1], prefix=True)
        change(library)
        vocabulary = vocabulary_of(library, tmp_path / name, eos="</s>")
        with pytest.raises(
            UserError, match=r"neither a byte-level BPE split as in gpt-2, .* nor a BPE of SentencePiece"
        ):
            add_tokenizer(None, vocabulary, ROWS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer.ggml.scores": [0.0]}, r"scores does not have one number for each of the 3 tokens"),
        ({"tokenizer.ggml.scores": [0.0, float("nan"), 1.0]}, r"scores does not have one number"),
        ({"tokenizer.ggml.scores": ["a", "b", "c"]}, r"scores does not have one number"),
        ({"tokenizer.ggml.model": "bert"}, r"unsupported tokenizer 'bert' \('default'\); supported are 'llama', and"),
        (
            {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "tekken"},
            r"unsupported tokenizer 'gpt2' \('tekken'\)",
        ),
    ],
)
def test_damaged_metadata_are_refused(changes, said, tmp_path):
    fields = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "</s>", "a"],
        "tokenizer.ggml.scores": [0.0, 0.0, -1.0],
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, NORMAL],
        "tokenizer.ggml.eos_token_id": 1,
    }
    assert read(fields, tmp_path / "a").encode("a") == [0, 2]  # "▁" is unknown
    with pytest.raises(UserError, match=said) as error:
        write_tokenizer({**fields, **changes}, tmp_path, "x.gguf")
    assert "\n" not in str(error.value)

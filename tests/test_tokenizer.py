"""Vocabularies out of a tokenizer.json, where id 0 may be a word."""

import json

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from t2t.config import from_json, to_json
from t2t.errors import UserError
from t2t.export.tokenizer_files import read_vocabulary
from t2t.export.tokenizer_writing import write_tokenizer
from t2t.vocabularies import Bytes, Tokenizer, WordPiece

TEXTS = ["the quick brown fox", "naïve façade — 你好 🙂", "  spaces\tand\n\nlines  ", "don't we'll 12345!"]


def byte_level(path, *, special=("<|endoftext|>",), first=False):
    """Train a byte-level BPE as GPT-2's, special tokens last or first."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    texts = [f"the quick brown fox {n} jumps over the lazy dog, don't {n * n}!" for n in range(200)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, show_progress=False, special_tokens=list(special) if first else []
    )
    library.train_from_iterator(texts, trainer)
    if not first:
        library.add_special_tokens(list(special))
    library.save(str(path))
    return library


@pytest.fixture
def gpt(tmp_path):
    byte_level(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return tmp_path


def test_text_in_text_out_and_every_id_a_word(gpt):
    vocabulary = read_vocabulary(gpt, {"model_type": "gpt2"}, scratch=gpt)
    assert isinstance(vocabulary, Tokenizer)
    library = Library.from_file(str(gpt / "tokenizer.json"))
    for text in TEXTS:
        ids = vocabulary.encode(text)
        assert ids == library.encode(text).ids
        assert vocabulary.decode([*ids, vocabulary.eos_id, 5]) == text
    assert vocabulary.pad_id is None
    assert vocabulary.decode([0, 1]) == '!"'
    assert vocabulary.eos_id == vocabulary.bos_id == vocabulary.size - 1
    assert not vocabulary.prepends_bos
    assert vocabulary.encode("a<|endoftext|>")[-1] == vocabulary.eos_id
    assert from_json(to_json(vocabulary)) == vocabulary


def test_sentinels_go_behind(gpt):
    plain = read_vocabulary(gpt, {}, scratch=gpt)
    more = Tokenizer(path=plain.path, eos=plain.eos, extra_ids=3)
    assert more.size == plain.size + 3
    assert more.encode_marked("a <extra_id_0>")[-1] == more.sentinel(0) == more.size - 1
    assert more.mask_id == plain.size
    assert plain.mask_id is None


def test_roles_are_those_named(tmp_path):
    byte_level(tmp_path / "tokenizer.json", special=("<s>", "<pad>", "</s>", "<unk>", "<mask>"), first=True)
    vocabulary = read_vocabulary(tmp_path, {"model_type": "roberta", "bos_token_id": 0}, scratch=tmp_path)
    assert (vocabulary.cls_id, vocabulary.pad_id, vocabulary.eos_id, vocabulary.sep_id) == (0, 1, 2, 2)
    assert (vocabulary.unk_id, vocabulary.mask_id) == (3, 4)
    assert vocabulary.decode([0, *vocabulary.encode("the fox"), 2]) == "the fox"


def test_gpt2s_two_files_make_a_tokenizer(gpt, tmp_path_factory):
    source, scratch = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("scratch")
    model = json.loads((gpt / "tokenizer.json").read_text())["model"]
    whole = Library.from_file(str(gpt / "tokenizer.json"))
    ids = {**model["vocab"], "<|endoftext|>": whole.token_to_id("<|endoftext|>")}
    (source / "vocab.json").write_text(json.dumps(ids))
    (source / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    vocabulary = read_vocabulary(source, {"model_type": "gpt2"}, scratch=scratch)
    for text in TEXTS:
        assert vocabulary.encode(text) == whole.encode(text).ids


def test_what_is_not_there_is_refused(gpt, tmp_path_factory):
    with pytest.raises(UserError, match=r"no token '<\|endoftxt\|>'.*Nearest: <\|endoftext"):
        _ = Tokenizer(path=str(gpt / "tokenizer.json"), eos="<|endoftxt|>").size
    (gpt / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"not a tokenizer.json"):
        _ = Tokenizer(path=str(gpt / "tokenizer.json"), eos="x").size
    with pytest.raises(UserError, match=r"no supported tokenizer"):
        read_vocabulary(tmp_path_factory.mktemp("empty"), {"model_type": "gpt2"}, scratch=gpt)


@pytest.mark.parametrize("kind", ["bytes", "wordpiece", "byte-level"])
def test_what_is_written_is_read_again_as_the_same_ids(kind, gpt, tmp_path_factory):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "##es", "!"]
    (gpt / "vocab.txt").write_text("\n".join(words))
    vocabulary = {
        "bytes": Bytes(extra_ids=5),
        "wordpiece": WordPiece(path=str(gpt / "vocab.txt")),
        "byte-level": Tokenizer(path=str(gpt / "tokenizer.json"), eos="<|endoftext|>", extra_ids=2),
    }[kind]
    out = tmp_path_factory.mktemp("out")
    write_tokenizer(out, vocabulary, "encoder_decoder")
    back = read_vocabulary(out, {"model_type": "t5"}, scratch=out)
    assert type(back) is type(vocabulary)
    assert back.size == vocabulary.size
    for text in ["The foxes!", *TEXTS]:
        assert back.encode(text) == vocabulary.encode(text)


def test_bytes_are_told_by_their_class(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    assert read_vocabulary(tmp_path, {"model_type": "t5"}, scratch=tmp_path) == Bytes(extra_ids=125)

"""Tokenizers in and out of directories of `transformers`: added tokens and their flags, BERT's settings, damage, and ids compared on difficult texts."""

import json

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Library
from tokenizers.processors import TemplateProcessing

from t2t.errors import Failure, UserError
from t2t.export.token_check import TEXTS, check, difference, marked, sentinels
from t2t.export.tokenizer_files import read_vocabulary, trained_lengths
from t2t.export.tokenizer_json import framed, framed_library
from t2t.export.tokenizer_writing import check_tokenizer, write_tokenizer
from t2t.vocabularies import Bytes, SentencePiece, Tokenizer, WordPiece
from tests.test_tokenizer import byte_level
from tests.test_vocabularies import trained

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "The", "cafe", "café", "日", "本", "日本", "a", "##b"]
DEFAULT = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A vocabulary of each kind."""
    place = tmp_path_factory.mktemp("made")
    byte_level(place / "tokenizer.json")
    (place / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return {
        "bytes": Bytes(extra_ids=7),
        "unigram": SentencePiece(path=trained(place / "unigram.model"), extra_ids=4),
        "bpe": SentencePiece(path=trained(place / "bpe.model", model_type="bpe"), extra_ids=4),
        "WordPiece": WordPiece(path=str(place / "vocab.txt"), extra_ids=3, lowercase=False),
        "byte-level": Tokenizer(path=str(place / "tokenizer.json"), eos="<|endoftext|>", extra_ids=2),
    }


KINDS = {"encoder_decoder": "t5", "decoder": "llama", "encoder": "bert"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bytes", "unigram", "bpe", "WordPiece", "byte-level"])
def test_an_export_gives_the_ids_that_the_model_is_fed_and_comes_back_as_the_same_vocabulary(
    name, kind, made, tmp_path
):
    vocabulary = made[name]
    write_tokenizer(tmp_path, vocabulary, kind, lengths={"inputs": 5, "targets": 6})
    library = Library.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*TEXTS, *marked(sentinels(vocabulary))]:
        assert library.encode(text).ids == framed(vocabulary, kind, text), text
    options = {"model_type": KINDS[kind], "decoder_start_token_id": vocabulary.bos_id}
    back = read_vocabulary(tmp_path, options, scratch=tmp_path)
    assert type(back) is type(vocabulary)
    assert (back.size, back.extra_ids, back.eos_id) == (vocabulary.size, vocabulary.extra_ids, vocabulary.eos_id)
    assert (back.pad_id, back.bos_id) == (vocabulary.pad_id, vocabulary.bos_id)
    assert trained_lengths(tmp_path) == {"inputs": 5, "targets": 6}


def test_what_stands_around_a_text_is_the_models(made):
    piece, word = made["unigram"], made["WordPiece"]
    ids = piece.encode("the fox")
    assert framed_library(piece, "decoder").encode("the fox").ids == [0, *ids]
    assert framed_library(piece, "encoder_decoder").encode("the fox").ids == [*ids, 1]
    pair = framed_library(word, "encoder").encode("the", "a")
    assert pair.ids == [2, 5, 3, 12, 3]
    assert pair.type_ids == [0, 0, 0, 1, 1]


def test_a_changed_file_of_an_export_ends_the_command_in_one_line(made, tmp_path):
    write_tokenizer(tmp_path, made["byte-level"], "decoder")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["pre_tokenizer"]["add_prefix_space"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(Failure, match=r"in the text .Hello, World!.* token 1 is") as caught:
        check_tokenizer(tmp_path, made["byte-level"], "decoder", {"model_type": "gpt2"}, kept=False)
    assert "\n" not in str(caught.value)


def test_the_first_difference_is_told():
    assert difference(list, list, ["ab", ""]) is None
    ids = {"ab": [1, 2, 3], "": []}
    assert difference(ids.__getitem__, lambda text: [1, 2], ["", "ab"]) is not None
    found = difference(ids.__getitem__, lambda text: ids[text][:2], ["", "ab"])
    assert "'ab'" in found
    assert "token 3 is 3" in found
    assert "missing" in found
    with pytest.raises(Failure, match="files give different ids"):
        check("files", ids.__getitem__, lambda text: ids[text][:2], ["ab"])


def bert(tmp_path, **settings):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **settings}))
    return read_vocabulary(tmp_path, {"model_type": "bert"}, scratch=tmp_path / "scratch")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ["the", "cafe", "日", "本"]),
        ({"do_lower_case": False}, ["The", "café", "日", "本"]),
        ({"strip_accents": False}, ["the", "café", "日", "本"]),
        ({"do_lower_case": False, "strip_accents": True}, ["The", "cafe", "日", "本"]),
        ({"tokenize_chinese_chars": False}, ["the", "cafe", "日本"]),
    ],
)
def test_berts_settings_are_those_of_tokenizer_config(settings, words, tmp_path):
    (tmp_path / "scratch").mkdir()
    vocabulary = bert(tmp_path, **settings)
    assert [WORDS[i] for i in vocabulary.encode("The café 日本")] == words
    assert isinstance(vocabulary, WordPiece)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_basic_tokenize": False}, "do_basic_tokenize"),
        ({"never_split": ["the"]}, "never_split"),
        ({"do_lower_case": "no"}, "do_lower_case.*true or false"),
        ({"mask_token": "<m>"}, "mask_token '<m>'"),
        ({"added_tokens_decoder": {"14": "x"}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"x": {"content": "<new>"}}}, "'x' is not an id"),
        ({"added_tokens_decoder": {"99": {"content": "<new>", **DEFAULT}}}, "'<new>' is declared as id 99"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused_by_name(settings, message, tmp_path):
    (tmp_path / "scratch").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        bert(tmp_path, **settings)
    assert "\n" not in str(caught.value)


def test_tokens_of_bert_under_other_names(tmp_path):
    names = ["<p>", "[UNK]", "<s>", "</s>", "<m>", *WORDS[5:]]
    (tmp_path / "vocab.txt").write_text("\n".join(names), encoding="utf-8")
    roles = {"pad_token": "<p>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<m>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **roles}))
    (tmp_path / "scratch").mkdir()
    vocabulary = read_vocabulary(tmp_path, {"model_type": "bert"}, scratch=tmp_path / "scratch")
    assert (vocabulary.pad_id, vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id) == (0, 2, 3, 4)
    assert vocabulary.encode_marked("the [MASK]") == [5, 4]


@pytest.mark.parametrize("settings", [{}, {"bos_token": "<s>", "eos_token": "</s>"}])
def test_mpnet_puts_robertas_tokens_around_the_words_of_bert(settings, tmp_path):
    names = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>", *WORDS[5:]]
    (tmp_path / "vocab.txt").write_text("\n".join(names), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MPNetTokenizer", **settings}))
    (tmp_path / "scratch").mkdir()
    options = {"model_type": "mpnet", "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    vocabulary = read_vocabulary(tmp_path, options, scratch=tmp_path / "scratch")
    assert framed(vocabulary, "encoder", "The a") == [0, 5, 12, 2]
    assert vocabulary.between == [2, 2]
    assert (vocabulary.pad_id, vocabulary.mask_id) == (1, 4)


def test_an_encoder_has_the_tokens_around_a_text_that_its_tokenizer_adds(tmp_path):
    """EuroBERT's tokenizer names a start and an end, and neither [CLS] nor [SEP]."""
    library = byte_level(tmp_path / "tokenizer.json")
    library.add_special_tokens(["<start>"])
    tokens = [(token, library.token_to_id(token)) for token in ("<start>", "<|endoftext|>")]
    library.post_processor = TemplateProcessing(single="<start> $A <|endoftext|>", special_tokens=tokens)
    library.save(str(tmp_path / "tokenizer.json"))
    roles = {"bos_token": "<start>", "eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles))
    vocabulary = read_vocabulary(tmp_path, {"model_type": "eurobert"}, scratch=tmp_path)
    assert framed(vocabulary, "encoder", "the fox") == library.encode("the fox").ids


@pytest.mark.parametrize("where", ["added_tokens.json", "added_tokens_decoder", "tokenizer.json"])
def test_added_tokens_are_found_wherever_they_are_declared(where, tmp_path):
    library = byte_level(tmp_path / "tokenizer.json")
    new = library.get_vocab_size()
    settings = {"eos_token": "<|endoftext|>"}
    if where == "added_tokens.json":
        (tmp_path / "added_tokens.json").write_text(json.dumps({"<sep>": new}))
    elif where == "added_tokens_decoder":
        settings["added_tokens_decoder"] = {str(new): {"content": "<sep>", **DEFAULT}}
    else:
        library.add_special_tokens(["<sep>"])
        library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "scratch").mkdir()
    vocabulary = read_vocabulary(tmp_path, {"model_type": "gpt2"}, scratch=tmp_path / "scratch")
    assert vocabulary.encode("a <sep>").count(new) == 1
    assert vocabulary.size == new + 1


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word", "normalized"])
def test_flags_declared_beside_a_tokenizer_win(flag, tmp_path):
    library = byte_level(tmp_path / "tokenizer.json")
    library.add_special_tokens(["<sep>"])
    library.save(str(tmp_path / "tokenizer.json"))
    number = library.token_to_id("<sep>")
    flags = {**DEFAULT, flag: not DEFAULT[flag]}
    library.add_special_tokens([AddedToken("<sep>", **flags)])
    settings = {"eos_token": "<|endoftext|>", "added_tokens_decoder": {str(number): {"content": "<sep>", **flags}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "scratch").mkdir()
    vocabulary = read_vocabulary(tmp_path, {"model_type": "gpt2"}, scratch=tmp_path / "scratch")
    for text in marked(["<sep>"]):
        assert vocabulary.encode(text) == library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("whole", [True, False], ids=["tokenizer.json", "spiece.model alone"])
def test_tokens_added_to_t5s_pieces_keep_their_ids(whole, tmp_path):
    piece = SentencePiece(path=trained(tmp_path / "spiece.model"), extra_ids=100)
    if whole:
        library = framed_library(piece, "encoder_decoder")
        library.add_tokens(["<sep>"])
        library.save(str(tmp_path / "tokenizer.json"))
    else:
        (tmp_path / "added_tokens.json").write_text(json.dumps({"<sep>": piece.size}))
    (tmp_path / "scratch").mkdir()
    vocabulary = read_vocabulary(tmp_path, {"model_type": "t5"}, scratch=tmp_path / "scratch")
    assert piece.size in vocabulary.encode("the fox <sep> jumps")
    assert (vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id) == (0, 0, 1)
    assert vocabulary.sentinel(0) == piece.sentinel(0)


def test_pieces_without_more_tokens_stay_sentencepiece(tmp_path):
    path = trained(tmp_path / "spiece.model")
    assert read_vocabulary(tmp_path, {"model_type": "t5"}, scratch=tmp_path) == SentencePiece(path=path, extra_ids=100)


DAMAGE = {
    "no end": ({"tokenizer_config.json": "{}"}, "the end-of-sequence token is missing"),
    "an end that is a word": (
        {"tokenizer_config.json": "{}", "eos_token_id": 5},
        "the end-of-sequence token is missing",
    ),
    "an end that is not there": ({"tokenizer_config.json": '{"eos_token": "</s>"}'}, "eos_token '</s>'"),
    "settings nested too deep": ({"tokenizer_config.json": "[" * 99_999}, "tokenizer_config.json"),
    "settings that are a list": ({"tokenizer_config.json": "[]"}, "tokenizer_config.json: .* is not an object"),
    "tokenizer.json nested too deep": ({"tokenizer.json": "[" * 99_999}, "not a tokenizer.json"),
    "a class that is a number": (
        {"tokenizer_config.json": '{"tokenizer_class": 5}'},
        "tokenizer_class: 5 is not a string",
    ),
    "extra_ids that are a text": (
        {"tokenizer_config.json": '{"tokenizer_class": "ByT5Tokenizer", "extra_ids": "5"}'},
        "extra_ids: .* is not an integer",
    ),
    "extra_ids that are null": (
        {"tokenizer_config.json": '{"tokenizer_class": "ByT5Tokenizer", "extra_ids": null}'},
        "extra_ids: null is not an integer",
    ),
    "a token added to bytes": (
        {
            "tokenizer_config.json": '{"tokenizer_class": "ByT5Tokenizer"}',
            "added_tokens.json": '{"<new>": 384}',
        },
        "'<new>' was added to ByT5's bytes",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_line_that_names_the_file(case, tmp_path):
    files, message = DAMAGE[case]
    library = byte_level(tmp_path / "tokenizer.json", special=())
    assert library.token_to_id("<|endoftext|>") is None
    options = {"model_type": "gpt2"}
    for name, content in files.items():
        if name == "eos_token_id":
            options[name] = content
        else:
            (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_vocabulary(tmp_path, options, scratch=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        ("[1]", "", "vocab.json: .* is not an object"),
        ('{"a": "x"}', "", "vocab.json: 'a'"),
        ("{", "", "vocab.json:1: not JSON"),
        ('{"a": 0, "b": 1}', "#version: 0.2\na b\n", "merges.txt:2: 'a b'"),
        ('{"a": 0, "b": 1}', "a\n", "merges.txt:1: 'a'"),
    ],
)
def test_damage_of_gpt2s_two_files(vocab, merges, message, tmp_path):
    (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(UserError, match=message) as caught:
        read_vocabulary(tmp_path, {"model_type": "gpt2"}, scratch=tmp_path)
    assert "\n" not in str(caught.value)

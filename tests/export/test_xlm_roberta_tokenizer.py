"""XLM-RoBERTa's tokenizer: ids of fairseq from the SentencePiece model alone, and the files of an import in its export."""

import shutil

import pytest

from t2t.decode.answer_text import _framed
from t2t.errors import UserError
from t2t.export.token_check import TEXTS
from t2t.export.tokenizer_files import read_vocabulary
from t2t.export.tokenizer_writing import write_tokenizer
from t2t.export.xlm_roberta_tokenizer import PIECES, xlm_roberta_tokenizer
from tests.test_vocabularies import trained

OPTIONS = {"model_type": "xlm-roberta", "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}


def xlm_pieces(path):
    """Train a SentencePiece model whose special pieces are those of XLM-RoBERTa's."""
    special = {"pad_id": -1, "unk_id": 0, "bos_id": 1, "eos_id": 2}
    return trained(path, **special, byte_fallback=False, vocab_size=90)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with the SentencePiece model, as XLM-RoBERTa's first files."""
    directory = tmp_path_factory.mktemp("xlm")
    xlm_pieces(directory / PIECES)
    return directory


def test_ids_are_one_more_than_those_of_the_pieces_and_the_mask_is_last(files, tmp_path):
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(files / PIECES))
    vocabulary = read_vocabulary(files, OPTIONS, scratch=tmp_path)
    for text in ("the quick brown fox", "  again   and again, 77 times ", "\u00bd \uff11 ZZ \u65e5"):
        assert vocabulary.encode(text) == [i + 1 if i else 3 for i in pieces.encode(text)], text
    assert vocabulary.size == pieces.get_piece_size() + 2
    special = (vocabulary.cls_id, vocabulary.pad_id, vocabulary.sep_id, vocabulary.unk_id, vocabulary.mask_id)
    assert special == (0, 1, 2, 3, vocabulary.size - 1)
    fox, dog = ([i + 1 for i in pieces.encode(text)] for text in ("the fox", "dog"))
    assert vocabulary.encode("the fox <mask> dog") == [
        *fox,
        vocabulary.mask_id,
        *dog,
    ]  # the mask has the space before it
    assert _framed(vocabulary, "the fox", "dog").ids == [0, *fox, 2, 2, *dog, 2]


def test_a_tokenizer_json_gives_the_same_ids_and_an_export_has_the_files_of_the_import(files, tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(files, source)
    xlm_roberta_tokenizer(files / PIECES).save(str(source / "tokenizer.json"))
    alone, both = (read_vocabulary(place, OPTIONS, scratch=tmp_path) for place in (files, source))
    for text in TEXTS:
        assert both.encode(text) == alone.encode(text)
    out.mkdir()
    write_tokenizer(out, both, "encoder", kept=source)
    for name in (PIECES, "tokenizer.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()


def test_another_model_is_refused(tmp_path):
    trained(tmp_path / PIECES)
    with pytest.raises(UserError, match=r"begins with <unk>, <s>, </s>; this one begins with <pad>, </s>, <unk>"):
        read_vocabulary(tmp_path, OPTIONS, scratch=tmp_path)
    (tmp_path / PIECES).write_bytes(b"\xff" * 9)
    with pytest.raises(UserError, match=r"is not a SentencePiece model"):
        read_vocabulary(tmp_path, OPTIONS, scratch=tmp_path)

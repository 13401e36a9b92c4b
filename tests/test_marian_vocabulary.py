"""Marian's vocabulary: two SentencePiece models and one table of ids; in tasks, in runs, and in directories of transformers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import seqio

from t2t.api.vocabulary_file import vocabulary_of
from t2t.config import from_json, to_json
from t2t.data import Data
from t2t.data.pipeline import batches, task_vocabulary
from t2t.data.vocabularies import from_seqio, to_seqio
from t2t.decode import texts as decode_texts
from t2t.errors import UserError
from t2t.export.token_check import TEXTS
from t2t.export.tokenizer_files import read_vocabulary
from t2t.export.tokenizer_writing import check_tokenizer, write_tokenizer
from t2t.tasks import register, sources
from t2t.train.ranking import Scorer
from t2t.vocabularies import Bytes, Marian

LANGUAGE = ">>deu<<"
ENGLISH = [f"the small house number {n} is on the old road; house and road, {n * n} times" for n in range(200)]
GERMAN = [f"das kleine Haus Nummer {n} steht an der alten Straße; Haus und Straße, {n * n} mal" for n in range(200)]


def marian_files(folder: Path) -> Path:
    """Write vocab.json, source.spm and target.spm as OPUS-MT has them. Return vocab.json."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces: list[str] = ["</s>", "<unk>", LANGUAGE]
    for name, lines, kind in (("source", ENGLISH, "unigram"), ("target", GERMAN, "bpe")):
        file = folder / f"{name}.spm"
        with file.open("wb") as out:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines), model_writer=out, model_type=kind, vocab_size=90, minloglevel=2
            )
        model = sentencepiece.SentencePieceProcessor(model_file=str(file))
        pieces += [model.id_to_piece(i) for i in range(3, model.get_piece_size())]
    table = list(dict.fromkeys([*pieces, "<pad>"]))
    source = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    table.remove(max(source.encode("road", out_type=str), key=len))  # the table lacks a piece of a model
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(table)}), encoding="utf-8")
    return folder / "vocab.json"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return marian_files(tmp_path_factory.mktemp("marian"))


@pytest.fixture(scope="module")
def own(path):
    return Marian(path=str(path))


def test_each_side_has_the_pieces_of_its_model_and_the_ids_of_the_table(path, own):
    table = json.loads(path.read_text())
    for side, vocabulary in (("source", own), ("target", own.of_targets)):
        model = sentencepiece.SentencePieceProcessor(model_file=str(path.with_name(f"{side}.spm")))
        for text in (*TEXTS, ENGLISH[3], GERMAN[4]):
            assert vocabulary.encode(text) == [
                table.get(piece, table["<unk>"]) for piece in model.encode(text, out_type=str)
            ]
    assert own.encode(GERMAN[0]) != own.of_targets.encode(GERMAN[0])
    assert (own.eos_id, own.unk_id, own.pad_id, own.bos_id) == (0, 1, own.size - 1, own.size - 1)
    assert own.unk_id in own.encode("road")
    assert own.of_targets.of_targets == own.of_targets


def test_a_language_before_a_text_is_one_token(own):
    assert own.languages == (LANGUAGE,)
    assert own.encode(f"{LANGUAGE} the house") == [2, *own.encode("the house")]
    assert own.encode(">>xyz<< the house") == [own.unk_id, *own.encode("the house")]
    assert 2 not in own.encode(f"the {LANGUAGE}")
    assert 2 not in own.encode(">>deu")


def test_outputs_are_read_with_the_model_of_targets(own):
    ids = own.of_targets.encode(GERMAN[3])
    assert own.decode([own.bos_id, *ids, own.eos_id, own.pad_id, 5]) == GERMAN[3]
    assert own.decode(own.encode("the small house")) == "the small house"
    marked = replace(own, extra_ids=3)
    assert marked.size == own.size + 3
    assert marked.size - 1 in marked.encode_marked("the <extra_id_0> house")
    assert marked.decode(marked.encode_marked("the <extra_id_1> house")) == "the <extra_id_1> house"


def test_it_is_configuration_and_its_three_files_move_together(own, tmp_path):
    assert from_json(to_json(own.of_targets)) == own.of_targets
    moved = own.relocated(str(tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.spm", "target.spm", "vocab.json"]
    there = moved.in_directory(str(tmp_path))
    assert there.identity() == own.identity() != own.of_targets.identity()
    (tmp_path / "target.spm").write_bytes(Path(own.path).with_name("source.spm").read_bytes())
    assert there.identity() != own.identity()
    with pytest.raises(UserError, match=r"target.spm' already exists and differs"):
        own.relocated(str(tmp_path))
    (tmp_path / "target.spm").unlink()
    (tmp_path / "target.spm").symlink_to(own.path)
    with pytest.raises(UserError, match=r"'target.spm' points outside"):
        moved.in_directory(str(tmp_path))


def test_in_a_task_inputs_and_targets_have_their_own_side(own, tmp_path):
    (tmp_path / "pairs.tsv").write_text(f"{ENGLISH[0]}\t{GERMAN[0]}\n", encoding="utf-8")
    source = sources.tsv({"train": str(tmp_path / "pairs.tsv")})
    try:
        register.add("marian_own", source=source, inputs=0, targets=1, vocabulary=own)
        register.add("marian_bytes", source=source, inputs=0, targets=1)
        wanted = [*own.encode(ENGLISH[0]), 0], [*own.of_targets.encode(GERMAN[0]), 0]
        for name, vocabulary in (("marian_own", None), ("marian_bytes", own)):
            data = Data(
                task=name,
                inputs_length=60,
                targets_length=60,
                batch_size=1,
                shards=1,
                vocabulary=vocabulary,
                pack=False,
            )
            assert task_vocabulary(data) == own
            batch = next(batches(data, "encoder_decoder"))
            for tokens, ids in zip((batch.encoder.ids, batch.targets), wanted, strict=True):
                assert tokens[0, : len(ids)].tolist() == ids
            assert batch.decoder.ids[0, 0] == own.bos_id
    finally:
        for name in list(seqio.TaskRegistry.names()):
            if name.startswith("marian_"):
                seqio.TaskRegistry.remove(name)
    assert from_seqio(to_seqio(own.of_targets)) == own.of_targets


def test_scored_texts_and_choices_are_targets(own, monkeypatch):
    scored = []
    monkeypatch.setattr(decode_texts, "score_many", lambda *given, **_: scored.append(given[2:4]) or [0.0])
    decode_texts.score_texts(None, None, own, [(ENGLISH[0], GERMAN[0])])
    assert scored == [([[*own.encode(ENGLISH[0]), 0]], [[*own.of_targets.encode(GERMAN[0]), 0]])]
    assert Scorer(None, None, own, batch_size=1, task="x").answer(GERMAN[0]) == scored[0][1][0]


SETTINGS = {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "de", "separate_vocabs": False}


def directory(folder, settings=SETTINGS):
    marian_files(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_directory_is_read_without_another_file(tmp_path):
    published = directory(tmp_path / "published")
    own = read_vocabulary(published, {"model_type": "marian"}, scratch=tmp_path)
    assert own == Marian(path=str(published / "vocab.json")) == vocabulary_of(str(published / "vocab.json"))
    (published / "tokenizer_config.json").unlink()
    assert read_vocabulary(published, {"model_type": "marian"}, scratch=tmp_path) == own


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"separate_vocabs": True}, r"separate_vocabs is true: only one vocabulary"),
        ({"sp_model_kwargs": {"enable_sampling": True}}, r"sp_model_kwargs is \{'enable_sampling': True\}"),
        ({"eos_token": "<end>"}, r"eos_token is '<end>': only '</s>' is supported"),
        ({"additional_special_tokens": ["<new>"]}, r"'<new>' was added to Marian's vocabulary"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused_by_name(settings, message, tmp_path):
    published = directory(tmp_path / "published", {**SETTINGS, **settings})
    with pytest.raises(UserError, match=message) as caught:
        read_vocabulary(published, {"model_type": "marian"}, scratch=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vocab.json", None, r"vocab.json' cannot be read"),
        ("vocab.json", b"{", r"vocab.json' is not JSON"),
        ("vocab.json", b"[1]", r"vocab.json' is not Marian's: expected an object"),
        ("vocab.json", b'{"</s>": 0, "<unk>": 2}', r"vocab.json' is not Marian's: expected an object"),
        ("vocab.json", b'{"</s>": 0, "<unk>": true}', r"vocab.json' is not Marian's: expected an object"),
        ("vocab.json", b'{"</s>": 0, "<unk>": 1}', r"vocab.json' has no token '<pad>'"),
        ("target.spm", None, r"target.spm' cannot be read"),
        ("source.spm", b"text", r"source.spm' is not a SentencePiece model"),
    ],
)
def test_damage_is_one_line_that_names_the_file(file, content, message, path, tmp_path):
    for one in path.parent.iterdir():
        (tmp_path / one.name).write_bytes(one.read_bytes())
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    with pytest.raises(UserError, match=message) as caught:
        read_vocabulary(tmp_path, {}, scratch=tmp_path)
    assert "\n" not in str(caught.value)


def test_files_are_kept_unchanged_or_written_anew(own, tmp_path):
    published = directory(tmp_path / "published")
    (tmp_path / "kept").mkdir()
    write_tokenizer(tmp_path / "kept", own, "encoder_decoder", kept=published)
    for file in published.iterdir():
        assert (tmp_path / "kept" / file.name).read_bytes() == file.read_bytes()
    (tmp_path / "anew").mkdir()
    write_tokenizer(tmp_path / "anew", own, "encoder_decoder", lengths={"inputs": 9, "targets": 8})
    settings = json.loads((tmp_path / "anew" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "MarianTokenizer"
    assert settings["trained_lengths"] == {"inputs": 9, "targets": 8}
    assert check_tokenizer(tmp_path / "anew", own, "encoder_decoder", {"model_type": "marian"}, kept=False) == len(
        TEXTS
    )
    with pytest.raises(UserError, match=r"MarianTokenizer of transformers has no sentinels"):
        write_tokenizer(tmp_path / "anew", replace(own, extra_ids=2), "encoder_decoder")


def test_an_unknown_side_is_refused(own):
    with pytest.raises(UserError, match=r"unknown side 'target' of a Marian vocabulary\. Nearest: targets"):
        replace(own, side="target")
    assert Bytes().of_targets == Bytes()

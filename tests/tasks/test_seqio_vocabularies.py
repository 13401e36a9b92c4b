import dataclasses

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tokenizers

from t2t import tasks
from t2t.data.vocabularies import derived, from_seqio, to_seqio, with_vocabulary
from t2t.errors import UserError
from t2t.tasks.generated import GeneratedSource, copy_words
from t2t.tasks.vocabulary_training import train_sentencepiece, train_wordpiece
from t2t.vocabularies import Bytes, SentencePiece, Tokenizer, Vocabulary, WordPiece

TEXTS = ["the quick brown fox", "", "Übergrößen, naïve café!", "日本語 text", "don't stop — now…", "a\tb\nc", "x" * 150]


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory) -> dict[str, Vocabulary]:
    directory = tmp_path_factory.mktemp("vocabularies")
    texts = [f"the quick brown fox {n} jumps, naïve, over don't stop {n * n}" for n in range(300)]
    piece = train_sentencepiece(texts, size=430, out=directory / "spiece.model", extra_ids=100)
    word = train_wordpiece(texts, size=200, out=directory / "vocab.txt")
    return {
        "bytes": Bytes(),
        "sentencepiece": piece,
        "wordpiece": word,
        "wordpiece+": WordPiece(path=word.path, extra_ids=5),
        "byte-level": _byte_level(directory / "tokenizer.json", texts),
    }


def _byte_level(path, texts) -> Tokenizer:
    library = tokenizers.ByteLevelBPETokenizer()
    library.train_from_iterator(texts, vocab_size=300, show_progress=False)
    library.add_special_tokens(["<|endoftext|>"])
    library.save(str(path))
    return Tokenizer(path=str(path), eos="<|endoftext|>", extra_ids=2)


@pytest.mark.parametrize(
    "text",
    [
        "The <extra_id_0> jumps <extra_id_1>.",
        "<extra_id_0>. again",
        "a <extra_id_0>, or <extra_id_3>",
        "  <extra_id_0>   fox",
        "<extra_id_0>",
        "the fox",
        "",
    ],
)
def test_what_follows_a_sentinel_is_cut_as_seqio_cuts_it(text, vocabularies):
    vocabulary = vocabularies["sentencepiece"]
    assert vocabulary.encode_marked(text) == list(to_seqio(vocabulary).encode(text))


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "wordpiece", "wordpiece+", "byte-level"])
def test_ids_are_the_same_in_python_seqio_and_the_graph(vocabularies, kind):
    ours = vocabularies[kind]
    theirs = to_seqio(ours)
    assert theirs.vocab_size == ours.size
    assert (theirs.pad_id, theirs.eos_id, theirs.unk_id) == (ours.pad_id or 0, ours.eos_id, ours.unk_id)
    for text in [*TEXTS, "the <extra_id_0> fox"]:
        ids = ours.encode(text)
        assert list(theirs.encode(text)) == ids
        dataset = tf.data.Dataset.from_tensors(tf.constant(text)).map(theirs.encode_tf)
        (found,) = dataset.as_numpy_iterator()
        assert found.dtype == np.int32
        assert found.tolist() == ids
    assert from_seqio(theirs) == ours


def test_sentinels_are_where_seqio_has_them(vocabularies):
    plain = seqio.SentencePieceVocabulary(vocabularies["sentencepiece"].path, extra_ids=100)
    ours = vocabularies["sentencepiece"]
    for i in (0, 1, 99):
        assert plain.encode(f"<extra_id_{i}>") == [ours.sentinel(i)] == [plain.vocab_size - 1 - i]
    assert Bytes(extra_ids=7).sentinel(0) == seqio.ByteVocabulary(extra_ids=7).vocab_size - 1


def test_decoding_agrees_where_seqio_has_no_gaps(vocabularies):
    for kind in ("bytes", "sentencepiece"):
        ours, theirs = vocabularies[kind], to_seqio(vocabularies[kind])
        for text in TEXTS:
            ids = [*ours.encode(text), ours.eos_id, *ours.encode("after")]
            assert ours.decode(ids) == theirs.decode(ids)


def test_wordpiece_in_batches_and_back(vocabularies):
    vocabulary = to_seqio(vocabularies["wordpiece"])
    ragged = vocabulary.encode_tf(tf.constant(["the fox", "stop"]))
    assert [row.numpy().tolist() for row in ragged] == [vocabulary.encode("the fox"), vocabulary.encode("stop")]
    ids = tf.constant([[*vocabulary.encode("the fox"), vocabulary.eos_id, 0]])
    assert vocabulary.decode_tf(ids).numpy().tolist() == [b"the fox"]
    assert vocabulary.decode(ids[0].numpy()) == "the fox"


def test_what_has_no_counterpart_is_refused(vocabularies):
    with pytest.raises(UserError, match="PassThroughVocabulary has ids but no text"):
        from_seqio(seqio.PassThroughVocabulary(size=10))
    with pytest.raises(UserError, match="FullCodepointVocabulary"):
        from_seqio(seqio.vocabularies.FullCodepointVocabulary())
    with pytest.raises(UserError, match="reverse_extra_ids"):
        from_seqio(
            seqio.SentencePieceVocabulary(vocabularies["sentencepiece"].path, extra_ids=3, reverse_extra_ids=False)
        )
    with pytest.raises(UserError, match=r"none\.model"):
        to_seqio(SentencePiece(path="none.model"))


def first(dataset):
    return next(iter(dataset.as_numpy_iterator()))


def test_a_task_over_another_vocabulary(vocabularies):
    for kind in ("sentencepiece", "wordpiece"):
        other = with_vocabulary("copy_words", vocabularies[kind])
        assert derived(other.name)
        assert other.name not in tasks.names()
        assert tasks.find(other.name) is other
        assert other.metric_fns == tasks.find("copy_words").metric_fns
        example = first(other.get_dataset(None, "validation", shuffle=False))
        text = example["targets_pretokenized"].decode()
        assert example["targets"].tolist() == [*vocabularies[kind].encode(text), vocabularies[kind].eos_id]
        assert with_vocabulary("copy_words", vocabularies[kind]).name == other.name
    features = with_vocabulary("copy_words_fill_mask", vocabularies["wordpiece"]).output_features
    assert isinstance(features["weights"].vocabulary, seqio.PassThroughVocabulary)
    assert from_seqio(features["inputs"].vocabulary) == vocabularies["wordpiece"]


def test_a_mixture_over_another_vocabulary_keeps_its_rates(vocabularies):
    source = GeneratedSource("small", copy_words, sizes={"train": 300})
    tasks.add("vt_small", source=source, targets="targets", inputs="inputs", replace=True)
    tasks.mix("vt_inner", {"copy_words": 1, "sort_words": 3}, replace=True)
    tasks.mix("vt_outer", {"vt_inner": 2, "vt_small": 1}, replace=True)
    other = with_vocabulary("vt_outer", vocabularies["sentencepiece"])
    old = tasks.find("vt_outer")
    assert sorted(other.get_rate(t) for t in other.tasks) == sorted(old.get_rate(t) for t in old.tasks)
    example = first(other.get_dataset({"inputs": 64, "targets": 64}, "train", shuffle=False))
    assert example["targets"].max() < vocabularies["sentencepiece"].size
    tasks.mix("vt_sized", ["vt_small", "copy_words"], cap=1000, replace=True)
    sized = with_vocabulary("vt_sized", vocabularies["sentencepiece"])
    assert sorted(sized.get_rate(t) for t in sized.tasks) == [300.0, 1000.0]


def test_unknown_and_underivable_tasks():
    with pytest.raises(UserError, match=r"'copy_wrods'.*Nearest: copy_words"):
        with_vocabulary("copy_wrods", Bytes())

    class Special(seqio.Task):
        pass

    plain = tasks.find("copy_words")
    seqio.TaskRegistry.remove("vt_special")
    seqio.TaskRegistry.add("vt_special", plain.source, plain.output_features, plain.preprocessors, task_cls=Special)
    with pytest.raises(UserError, match="vt_special"):
        with_vocabulary("vt_special", Bytes(extra_ids=0))


def test_the_iterator_over_wordpiece_can_be_saved(vocabularies, tmp_path):
    task = with_vocabulary("reverse_words", vocabularies["wordpiece"])
    lengths = {"inputs": 32, "targets": 32}
    iterator = iter(task.get_dataset(lengths, "train", seed=3, num_epochs=None, try_in_mem_cache=False))
    for _ in range(100):
        next(iterator)
    saved = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "position"))
    ahead = [next(iterator)["inputs"].numpy().tolist() for _ in range(50)]
    fresh = iter(task.get_dataset(lengths, "train", seed=3, num_epochs=None, try_in_mem_cache=False))
    tf.train.Checkpoint(iterator=fresh).restore(saved).assert_consumed()
    assert [next(fresh)["inputs"].numpy().tolist() for _ in range(50)] == ahead


def test_all_ids_that_end_a_text_come_back_and_seqio_knows_the_first(vocabularies):
    for own in vocabularies.values():
        several = dataclasses.replace(own, ends=(7, 9))
        assert from_seqio(to_seqio(several)) == several
        assert to_seqio(several).eos_id == own.eos_id
        assert from_seqio(to_seqio(own)) == own

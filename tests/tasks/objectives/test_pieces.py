import seqio

from t2t.tasks.objectives import span_corruption, spans, text_features
from t2t.vocabularies import Bytes


def test_the_example_of_the_t5_paper():
    vocabulary = Bytes()
    text = vocabulary.encode
    inputs = [
        *text("Thank you "),
        vocabulary.sentinel(0),
        *text(" me to your party "),
        vocabulary.sentinel(1),
        *text(" week."),
        vocabulary.eos_id,
        0,
    ]
    targets = [vocabulary.sentinel(0), *text("for inviting"), vocabulary.sentinel(1), *text("last"), vocabulary.eos_id]
    assert spans(inputs, targets, vocabulary) == [
        ("Thank you ", "kept"),
        ("<extra_id_0>", "sentinel"),
        ("for inviting", "noise"),
        (" me to your party ", "kept"),
        ("<extra_id_1>", "sentinel"),
        ("last", "noise"),
        (" week.", "kept"),
    ]


def test_pieces_of_a_corrupted_text_make_the_text(texts, tokenized):
    vocabulary = Bytes()
    with seqio.utils.map_seed_manager(0):
        dataset = span_corruption(
            tokenized([vocabulary.encode(text) for text in texts]),
            {"inputs": 512, "targets": 114},
            text_features(vocabulary),
        )
    pieces = [p for e in dataset.as_numpy_iterator() for p in spans(e["inputs"], e["targets"], vocabulary)]
    assert "".join(text for text, kind in pieces if kind != "sentinel") == "".join(texts)


def test_a_prediction_of_any_form_is_shown_whole():
    vocabulary = Bytes()
    inputs = [*vocabulary.encode("a"), vocabulary.sentinel(0), vocabulary.sentinel(1)]
    targets = [*vocabulary.encode("x"), vocabulary.sentinel(5), *vocabulary.encode("y"), vocabulary.sentinel(0)]
    assert spans(inputs, targets, vocabulary) == [
        ("a", "kept"),
        ("<extra_id_0>", "sentinel"),
        ("<extra_id_1>", "sentinel"),
        ("<extra_id_5>", "sentinel"),
        ("y", "noise"),
        ("x", "noise"),
    ]

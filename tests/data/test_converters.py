import numpy as np
import pytest

from t2t.config import dumps, loads
from t2t.data.config import Data
from t2t.data.kind_converters import converter
from t2t.data.packing import OPEN_ROWS, Packer
from t2t.errors import UserError
from t2t.losses import cross_entropy
from t2t.objectives import CrossEntropy


def ids(*values):
    return np.array(values, np.int32)


def layout(kind, **more):
    return converter(**{"kind": kind, "inputs_length": 6, "targets_length": 5, **more})


A = {"inputs": ids(11, 12, 13), "targets": ids(21, 22)}
B = {"inputs": ids(14), "targets": ids(23, 24, 25)}


def test_encoder_decoder_row_of_two():
    batch = layout("encoder_decoder").batch([[A, B], []])
    assert batch.encoder.ids.tolist() == [[11, 12, 13, 14, 0, 0], [0] * 6]
    assert batch.encoder.segments.tolist() == [[1, 1, 1, 2, 0, 0], [0] * 6]
    assert batch.encoder.positions.tolist() == [[0, 1, 2, 0, 0, 0], [0] * 6]
    assert batch.targets.tolist() == [[21, 22, 23, 24, 25], [0] * 5]
    assert batch.decoder.ids.tolist() == [[0, 21, 0, 23, 24], [0] * 5]
    assert batch.decoder.segments.tolist() == [[1, 1, 2, 2, 2], [0] * 5]
    assert batch.decoder.positions.tolist() == [[0, 1, 0, 1, 2], [0] * 5]
    assert batch.weights.tolist() == [[1] * 5, [0] * 5]
    assert batch.weights.dtype == np.float32
    assert batch.targets.dtype == np.int32


def test_an_example_without_inputs_keeps_segments_together():
    batch = layout("encoder_decoder").batch([[{"inputs": ids(), "targets": ids(21)}, B]])
    assert batch.encoder.segments.tolist() == [[2, 0, 0, 0, 0, 0]]
    assert batch.decoder.segments.tolist() == [[1, 2, 2, 2, 0]]


def test_decoder_predicts_targets_and_marks_what_came_before():
    batch = layout("decoder", bos_id=9).batch([[A, B]])
    assert batch.encoder is None
    assert batch.targets.tolist() == [[11, 12, 13, 21, 22, 14, 23, 24, 25, 0, 0]]
    assert batch.decoder.ids.tolist() == [[9, 11, 12, 13, 21, 9, 14, 23, 24, 0, 0]]
    assert batch.weights.tolist() == [[0, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0]]
    # The last input is the decoder position that predicts the first target.
    assert batch.decoder.prefix.tolist() == [[1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0]]
    # What is predicted at one place with weight stands at the next: there the prefix must have ended.
    same = batch.decoder.segments[:, 1:] == batch.decoder.segments[:, :-1]
    assert not (same * batch.decoder.prefix[:, 1:] * batch.weights[:, :-1]).any()


def test_decoder_with_loss_on_inputs_has_no_prefix():
    batch = layout("decoder", loss_on_inputs=1.0).batch([[A, B]])
    assert batch.decoder.prefix is None
    assert batch.weights.tolist() == [[1] * 9 + [0] * 2]


def test_the_loss_on_inputs_is_added_with_its_weight():
    logits = np.random.default_rng(0).normal(size=(1, 11, 30)).astype(np.float32)

    def sums(weight):
        batch = layout("decoder", loss_on_inputs=weight).batch([[A, B]])
        return cross_entropy(logits, batch.targets, batch.weights, CrossEntropy(z_loss=0.1))

    targets, whole, half = sums(0.0), sums(1.0), sums(0.5)
    for name in ("objective", "loss", "z_loss", "weight"):
        alone = getattr(targets, name)
        inputs = getattr(whole, name) - alone
        assert inputs > 0
        np.testing.assert_allclose(getattr(half, name), alone + 0.5 * inputs, rtol=1e-6)
    assert (targets.weight, whole.weight, half.weight) == (5, 9, 7)
    assert layout("decoder", loss_on_inputs=0.5).batch([[A, B]]).decoder.prefix is None


@pytest.mark.parametrize(
    ("weight", "nearest"), [(-0.5, r"0\."), (float("nan"), r"0\."), (float("inf"), r"1e\+06\."), (True, r"1\.0\.")]
)
def test_what_is_no_weight_of_inputs_is_refused(weight, nearest):
    with pytest.raises(UserError, match=rf"loss.on.inputs {weight} .*Nearest: {nearest}"):
        Data(task="any", loss_on_inputs=weight)


@pytest.mark.parametrize(("written", "read"), [("true", 1.0), ("false", 0.0), ("0.5", 0.5)])
def test_what_was_true_or_false_once_is_read_as_a_weight(written, read):
    text = dumps(Data(task="any", loss_on_inputs=0.25)).replace("0.25", written)
    assert loads(text) == Data(task="any", loss_on_inputs=read)


def test_decoder_without_inputs_has_the_whole_row():
    only = layout("decoder", has_inputs=False)
    assert only.lengths == {"targets": 11}
    batch = only.batch([[{"targets": np.arange(1, 12, dtype=np.int32)}]])
    assert batch.decoder.ids.tolist() == [list(range(11))]
    assert batch.weights.tolist() == [[1] * 11]
    assert batch.decoder.prefix is None


def test_encoder_keeps_weights_of_zero_inside_and_fractions():
    example = {"inputs": ids(5, 6, 7), "targets": ids(5, 0, 7), "weights": np.array([0, 0.5, 0], np.float32)}
    kind = layout("encoder")
    fitted, trimmed = kind.fit(example)
    assert not trimmed
    batch = kind.batch([[fitted, fitted]])
    assert batch.decoder is None
    assert batch.encoder.ids.tolist() == [[5, 6, 7, 5, 6, 7]]
    assert batch.targets.tolist() == [[5, 0, 7, 5, 0, 7]]
    assert batch.weights.tolist() == [[0, 0.5, 0, 0, 0.5, 0]]


def test_encoder_features_of_unequal_length_are_refused():
    with pytest.raises(UserError, match="3 inputs, 2 targets, 3 weights"):
        layout("encoder").fit({"inputs": ids(1, 2, 3), "targets": ids(1, 2), "weights": ids(1, 1, 1)})


@pytest.mark.parametrize(
    ("inputs", "kept", "trimmed"), [(7, 6, True), (6, 6, False), (0, 0, False)], ids=["longer", "just", "empty"]
)
def test_what_does_not_fit_is_cut_and_told(inputs, kept, trimmed):
    example, cut = layout("encoder_decoder").fit({"inputs": np.full(inputs, 4), "targets": ids(3)})
    assert (len(example["inputs"]), cut) == (kept, trimmed)


def test_padding_at_the_end_is_no_token_and_a_zero_inside_is():
    example, cut = layout("encoder_decoder").fit({"inputs": ids(0, 4, 0, 5, 0, 0, 0), "targets": ids(3, 0)})
    assert example["inputs"].tolist() == [0, 4, 0, 5]
    assert example["targets"].tolist() == [3]
    assert not cut


def test_prompts_hold_no_target():
    batch = layout("decoder", bos_id=9).prompts([A, B])
    assert batch.decoder.ids.tolist() == [[9, 11, 12, 13, 0, 0, 0], [9, 14, 0, 0, 0, 0, 0]]
    assert batch.decoder.prefix.tolist() == [[1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]]
    assert not batch.weights.any()
    batch = layout("encoder_decoder").prompts([A])
    assert batch.encoder.ids.tolist() == [[11, 12, 13, 0, 0, 0]]
    assert (batch.decoder.ids.tolist(), batch.decoder.segments.tolist()) == ([[0]], [[1]])


def test_prompt_equals_the_beginning_of_the_row():
    kind = layout("decoder", bos_id=9)
    row, prompt = kind.batch([[A]]), kind.prompts([A])
    length = 1 + len(A["inputs"])
    for name in ("ids", "positions", "segments", "prefix"):
        assert getattr(row.decoder, name)[0, :length].tolist() == getattr(prompt.decoder, name)[0, :length].tolist()


@pytest.mark.parametrize("kind", ["encoder_decoder", "decoder", "encoder"])
def test_packed_segments_are_the_examples_alone(kind):
    rng = np.random.default_rng(0)
    rows_of = converter(kind=kind, inputs_length=24, targets_length=16)
    examples = []
    for _ in range(200):
        n, m = rng.integers(1, 12), rng.integers(1, 9)
        example = {"inputs": rng.integers(3, 99, n), "targets": rng.integers(3, 99, n if kind == "encoder" else m)}
        if kind == "encoder":
            example["weights"] = rng.integers(0, 2, n).astype(np.float32)
        examples.append(example)
    packer = Packer(rows_of, pack=True)
    rows = [row for example in examples for row in packer.add(example)] + packer.flush()
    assert len(rows) < len(examples) / 1.5
    packed = rows_of.batch(rows)
    found = []
    for index, row in enumerate(rows):
        for segment, example in enumerate(row, 1):
            alone = rows_of.batch([[example]])
            for side in ("encoder", "decoder"):
                tokens = getattr(packed, side)
                if tokens is None:
                    continue
                here, there = tokens.segments[index] == segment, getattr(alone, side).segments[0] == 1
                for name in ("ids", "positions") + (("prefix",) if tokens.prefix is not None else ()):
                    np.testing.assert_array_equal(
                        getattr(tokens, name)[index][here], getattr(getattr(alone, side), name)[0][there]
                    )
            last = packed.decoder if packed.decoder is not None else packed.encoder
            here = last.segments[index] == segment
            there = (alone.decoder if alone.decoder is not None else alone.encoder).segments[0] == 1
            np.testing.assert_array_equal(packed.targets[index][here], alone.targets[0][there])
            np.testing.assert_array_equal(packed.weights[index][here], alone.weights[0][there])
            found.append(id(example))
    assert sorted(found) == sorted(map(id, examples))


def test_packing_wastes_little_and_goes_on_from_its_rows():
    rng = np.random.default_rng(1)
    rows_of = converter(kind="decoder", inputs_length=64, targets_length=64, has_inputs=False)
    examples = [{"targets": np.full(n, 7)} for n in rng.integers(5, 60, 400)]
    one, two = Packer(rows_of, pack=True), Packer(rows_of, pack=True)
    rows = [row for example in examples[:200] for row in one.add(example)]
    assert len(one.rows) <= OPEN_ROWS
    two.rows = one.rows
    rests = []
    for packer in (one, two):
        rest = [row for example in examples[200:] for row in packer.add(example)] + packer.flush()
        rests.append([[len(x["targets"]) for x in row] for row in rest])
    assert rests[0] == rests[1]
    total = sum(len(x["targets"]) for x in examples)
    assert total / (128 * (len(rows) + len(rest))) > 0.9


def test_an_encoders_types_stand_beside_its_inputs():
    typed = layout("encoder", has_types=True)
    assert typed.lengths == {"inputs": 6, "targets": 6, "weights": 6, "types": 6}
    first, second = (
        {"inputs": ids(*x), "targets": ids(*x), "weights": np.ones(len(x), np.float32), "types": ids(*types)}
        for x, types in (((11, 12, 13), (0, 1, 1)), ((14, 15), (0, 1)))
    )
    batch = typed.batch([[first, second], [second], []])
    assert batch.encoder.types.tolist() == [[0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0], [0] * 6]
    assert batch.encoder.types.dtype == np.int32
    assert typed.prompts([first]).encoder.types.tolist() == [[0, 1, 1, 0, 0, 0]]
    assert layout("encoder").batch([[first]]).encoder.types is None
    fitted, cut = typed.fit({name: np.concatenate([first[name]] * 3) for name in first})
    assert cut
    assert fitted["types"].tolist() == [0, 1, 1, 0, 1, 1]
    with pytest.raises(UserError, match=r"inputs, targets, weights and types must have equal lengths; .* 2 types"):
        typed.fit({**first, "types": ids(0, 1)})

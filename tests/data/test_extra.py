"""Further arrays of a batch: where packing puts their values, how a data position keeps them, and what is refused."""

import numpy as np
import pytest

from t2t.data.kind_converters import converter
from t2t.data.packing import Packer
from t2t.data.places import Place, from_bytes, to_bytes
from t2t.errors import UserError
from t2t.types import Extra

REWARD = Extra(name="reward", slots=2)
BOX = Extra(name="box", shape=(2, 2), slots=2, dtype="int32", inner=("embed", None))
ADVANTAGE = Extra(name="advantage", per="target")
FEATURES = {"encoder": 3, "decoder": 2, "encoder_decoder": 2}


def example(kind, number, inputs, targets):
    """Return an example whose values tell its number."""
    made = {"inputs": np.full(inputs, number, np.int32), "targets": np.full(targets, 10 * number, np.int32)}
    length = targets
    if kind == "encoder":
        made |= {"targets": np.full(inputs, 10 * number, np.int32), "weights": np.ones(inputs, np.float32)}
        length = inputs
    return made | {
        "reward": np.array([number / 2], np.float32),
        "box": np.arange(4, dtype=np.int32) + 100 * number,
        "advantage": number + np.arange(length, dtype=np.float32) / 10,
    }


def rows_of(kind, *extras):
    return converter(kind, inputs_length=6, targets_length=6, extras=extras or (REWARD, BOX, ADVANTAGE))


@pytest.mark.parametrize("kind", FEATURES)
def test_values_stand_with_their_example(kind):
    rows = rows_of(kind)
    batch = rows.batch([[example(kind, 1, 2, 3), example(kind, 2, 3, 2)], [example(kind, 3, 1, 1)], []])
    main = batch.encoder if kind == "encoder" else batch.decoder
    assert {name: (x.shape, x.dtype.name) for name, x in batch.extra.items()} == {
        "reward": ((3, 2), "float32"),
        "box": ((3, 2, 2, 2), "int32"),
        "advantage": (main.ids.shape, "float32"),
    }
    assert batch.extra["reward"].tolist() == [[0.5, 1.0], [1.5, 0.0], [0.0, 0.0]]
    assert batch.extra["box"][0, 1].tolist() == [[200, 201], [202, 203]]
    # A value of a target stands where the target is predicted, whatever comes before it in the row.
    for number, place in ((1, (0, 1)), (2, (0, 2)), (3, (1, 1))):
        there = (batch.targets == 10 * number) & (batch.weights > 0)
        expected = number + np.arange(there.sum()) / 10
        np.testing.assert_allclose(batch.extra["advantage"][there], expected, rtol=1e-6)
        assert (main.segments[there] == place[1]).all()
    assert not batch.extra["advantage"][batch.weights == 0].any()
    assert rows.extra_axes == {
        "reward": ("batch", None),
        "box": ("batch", None, "embed", None),
        "advantage": ("batch", "length"),
    }


def test_packing_puts_no_more_examples_in_a_row_than_there_are_slots():
    small = [example("decoder", number, 1, 1) for number in range(1, 8)]
    packer = Packer(rows_of("decoder"), pack=True)
    packed = [row for one in small for row in packer.add(one)] + packer.flush()
    assert [len(row) for row in packed] == [2, 2, 2, 1]
    free = Packer(rows_of("decoder", ADVANTAGE), pack=True)
    assert max(len(row) for row in [row for one in small for row in free.add(one)] + free.flush()) == 6


def test_what_is_cut_off_a_target_is_cut_off_its_values():
    long = example("decoder", 1, 2, 9) | {"targets": np.array([5, 0, 5, 5, 5, 5, 5, 5, 0], np.int32)}
    fitted, cut = rows_of("decoder").fit(long)
    assert cut
    assert len(fitted["targets"]) == len(fitted["advantage"]) == 6
    padded = long | {"targets": np.array([5, 0, 5, 0, 0, 0, 0, 0, 0], np.int32)}
    fitted, cut = rows_of("decoder").fit(padded)
    assert not cut
    assert len(fitted["targets"]) == len(fitted["advantage"]) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"advantage": np.zeros(2, np.float32)}, r"'advantage' must have one value for each of the targets.*2 advantage"),
        ({"box": np.zeros(3, np.int32)}, r"'box' must have 4 finite values in each example \(shape \(2, 2\)\); one has 3"),
        ({"reward": np.zeros(2, np.float32)}, r"'reward' must have 1 finite values"),
    ],
)  # fmt: skip
def test_values_of_another_number_are_refused(changed, message):
    with pytest.raises(UserError, match=message):
        rows_of("decoder").fit(example("decoder", 1, 2, 3) | changed)


@pytest.mark.parametrize("kind", FEATURES)
def test_a_data_position_keeps_them(kind):
    rows = rows_of(kind)
    one, two = example(kind, 1, 2, 3), example(kind, 2, 3, 2)
    counts = {"examples": 2, "trimmed": 0, "empty": 0}
    place = Place(
        identity={}, blocks=1, ended=False, counts=counts, ready=[[one]], opened=[], waiting=[(two, False)], files={}
    )
    found = from_bytes(to_bytes(place, rows), rows, "here")
    for kept, made in ((found.ready[0][0], one), (found.waiting[0][0], two)):
        assert kept.keys() == made.keys()
        for name in made:
            np.testing.assert_array_equal(kept[name], made[name])
            assert kept[name].dtype == made[name].dtype
    with pytest.raises(UserError, match="its features are not"):
        from_bytes(to_bytes(place, rows), rows_of(kind, REWARD), "here")

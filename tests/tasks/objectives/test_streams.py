import pytest
import tensorflow as tf

from t2t.tasks.objectives.streams import BLOCK, map_blocks, map_inline


def branching(number):
    return number * 2 if number > 2 else number + tf.reduce_sum(tf.range(number))


@pytest.mark.parametrize("function", [lambda number: (number + 1, {"half": number / 2}), branching])
def test_mapped_in_the_asking_thread_as_in_any(function):
    numbers = tf.data.Dataset.range(6)
    made, expected = map_inline(numbers, function), numbers.map(function)
    assert made.element_spec == expected.element_spec
    assert list(made.as_numpy_iterator()) == list(expected.as_numpy_iterator())


def test_other_things_than_tensors_are_mapped():
    rows = tf.data.Dataset.from_tensor_slices({"words": tf.ragged.constant([[[1, 2], [3]], [[], [4, 5]]])})
    assert list(map_inline(rows, lambda row: tf.size(row["words"].flat_values)).as_numpy_iterator()) == [3, 2]


def test_blocks_give_each_example_what_is_its_own(tmp_path):
    """Lengths of 0 and of all others, over several blocks; and the place within a block can be saved, with counters alone too."""

    def doubled(block):
        mask = tf.sequence_mask(block["size"])
        flat = tf.boolean_mask(block["ids"], mask)
        return {
            "all": tf.RaggedTensor.from_row_lengths(flat, block["size"]),
            "twos": tf.RaggedTensor.from_row_lengths(tf.repeat(block["size"], 2), tf.fill([tf.size(block["size"])], 2)),
        }

    count = 2 * BLOCK + 5
    rows = tf.data.Dataset.range(count).map(lambda i: {"ids": 7 + tf.range(i % 9), "size": tf.cast(i % 9, tf.int32)})
    made = map_blocks(rows, doubled)
    whole = [(e["all"].tolist(), e["twos"].tolist()) for e in made.as_numpy_iterator()]
    assert whole == [(list(range(7, 7 + i % 9)), [i % 9] * 2) for i in range(count)]
    for symbolic in (False, True):
        options = tf.data.Options()
        options.experimental_symbolic_checkpoint = symbolic
        dataset = made.with_options(options)
        iterator, resumed = iter(dataset), iter(dataset)
        for _ in range(BLOCK + 3):
            next(iterator)
        path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / f"{symbolic}"))
        tf.train.Checkpoint(iterator=resumed).read(path).assert_consumed()
        assert [(e["all"].numpy().tolist(), e["twos"].numpy().tolist()) for e in resumed] == whole[BLOCK + 3 :]

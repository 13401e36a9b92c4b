"""A data position that is damaged, or made by somebody: one line, and nothing is written anywhere."""

import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2t.data.kind_converters import converter
from t2t.data.places import Place, from_bytes, to_bytes
from t2t.errors import UserError
from tests.damage import told

LAYOUT = converter(kind="encoder_decoder", inputs_length=6, targets_length=5)


def example(*sizes):
    return {name: np.arange(size, dtype=np.int32) for name, size in zip(LAYOUT.features, sizes, strict=True)}


def place():
    return Place(
        identity={"seed": 3},
        blocks=2,
        ended=False,
        counts={"examples": 5, "trimmed": 1, "empty": 0},
        ready=[[example(2, 3), example(4, 1)], []],
        opened=[[example(6, 5)]],
        waiting=[(example(1, 1), False), (example(0, 2), True)],
        files={"iterator.index": b"abc", "iterator.data-00000-of-00001": b"\x00" * 100},
    )


WHOLE = to_bytes(place(), LAYOUT)


def files_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files):
    with zipfile.ZipFile(out := io.BytesIO(), "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def with_header(**changed):
    files = files_of(WHOLE)
    return zipped({**files, "header.json": json.dumps({**json.loads(files["header.json"]), **changed}).encode()})


def with_arrays(**changed):
    files = files_of(WHOLE)
    arrays = dict(np.load(io.BytesIO(files["examples.npz"])))
    np.savez(out := io.BytesIO(), **{**arrays, **changed})
    return zipped({**files, "examples.npz": out.getvalue()})


def test_a_place_comes_back_as_it_was():
    found, was = from_bytes(WHOLE, LAYOUT, "here"), place()
    for name in ("identity", "blocks", "ended", "counts", "files"):
        assert getattr(found, name) == getattr(was, name)
    for name in ("ready", "opened", "waiting"):
        np.testing.assert_equal(getattr(found, name), getattr(was, name))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        zipped({}),
        zipped({"header.json": b"{}"}),
        zipped({**files_of(WHOLE), "header.json": b"[" * 100_000}),
        zipped({**files_of(WHOLE), "header.json": b"[]"}),
        zipped({**files_of(WHOLE), "examples.npz": b""}),
        zipped({**files_of(WHOLE), "examples.npz": zipped({"inputs.npy": b"x"})}),
        *(zipped({**files_of(WHOLE), name: b"x"}) for name in ("../../x", "/x", "iterator/../x", "more", "a\\b")),
        *(with_header(identity=value) for value in (5, None, [])),
        *(with_header(rows=value) for value in (None, [[1], [2], [3]], [[2, 0], [1], [1, 1]], [[-1], [1], [2]], [[]])),
        *(with_header(blocks=value) for value in ("a", -1, True, None, 1.5)),
        *(with_header(counts=value) for value in ({"x": 1}, None, {"examples": 1}, [1, 2, 3])),
        with_header(counts={"examples": -1, "trimmed": 0, "empty": 0}),
        *(with_header(cut=value) for value in (5, [0, 1], [True], "ab")),
        *(with_header(ended=value) for value in ("yes", 0, None)),
        with_arrays(inputs=np.zeros((13, 1), np.int32)),
        with_arrays(inputs=np.zeros(5, np.int32)),
        with_arrays(inputs=np.array(["a"] * 13)),
        with_arrays(inputs=np.array([{}] * 13, object)),
        with_arrays(inputs_lengths=np.array([13, 0, 0, 0, 0])),
        with_arrays(inputs_lengths=np.array([-1, 7, 7, 0, 0])),
        with_arrays(more=np.zeros(3)),
    ],
)
def test_what_is_no_place_is_refused_in_one_line(content):
    with pytest.raises(UserError, match=r"^here: damaged or not a data position") as told:
        from_bytes(content, LAYOUT, "here")
    assert "\n" not in str(told.value)


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="longer than"):
        from_bytes(with_header(rows=[[3], [0], [2]]), LAYOUT, "here")


def test_an_encoders_features_are_of_equal_length():
    layout = converter(kind="encoder", inputs_length=6, targets_length=5)
    uneven = {"inputs": np.zeros(3, np.int32), "targets": np.zeros(2, np.int32), "weights": np.zeros(3, np.float32)}
    made = Place(
        identity={}, blocks=0, ended=True, counts=place().counts, ready=[[uneven]], opened=[], waiting=[], files={}
    )
    with pytest.raises(UserError, match="targets is not as long as inputs"):
        from_bytes(to_bytes(made, layout), layout, "here")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(WHOLE)))
def test_bytes_that_changed_are_refused_or_read(changes, end):
    content = bytearray(WHOLE)
    for index, value in changes:
        content[index] = value
    told(lambda: from_bytes(bytes(content[: end or None]), LAYOUT, "here"))

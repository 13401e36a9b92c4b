"""Checkpoints of T5X, its own layout and the legacy one, written as it writes them and read back."""

import jax
import numpy as np
import pytest
import tensorstore
from flax.serialization import msgpack_restore, msgpack_serialize
from hypothesis import given, settings
from hypothesis import strategies as st

from t2t.api import tensorflow_checkpoint
from t2t.errors import UserError
from t2t.export.directory import flatten, unflatten
from t2t.export.mapping import tensors, write_tensor
from t2t.export.t5x import open_arrays
from t2t.models import gpt
from t2t.models.t5 import t5x
from t2t.sharding import MeshConfig
from tests.damage import changed_bytes, told
from tests.models.tiny import config, params_of


def arrays_of(name, table):
    settings = config(name)
    model, params = params_of(settings)
    flat = flatten(params)
    found = {tensor.name: np.asarray(write_tensor(tensor, flat)) for tensor in tensors(table(settings), model.specs)}
    return settings, params, found


def write_native(directory, arrays):
    """Write small arrays inline and the others as zarr, as T5X does."""
    target = {}
    for name, value in arrays.items():
        if value.ndim < 2:
            target[name] = value
            continue
        folder = "target." + name.replace("/", ".")
        spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(directory / folder)}}
        meta = {"shape": list(value.shape), "chunks": list(value.shape), "compressor": {"id": "gzip"}}
        store = tensorstore.open({**spec, "metadata": meta}, create=True, dtype=tensorstore.float32).result()
        store.write(value).result()
        target[name] = {
            "driver": "zarr",
            "dtype": "float32",
            "metadata": meta,
            "kvstore": {"driver": "file", "path": folder},
        }
    tree = {"version": 3, "optimizer": {"state": {"step": np.int32(5)}, "target": unflatten(target)}}
    (directory / "checkpoint").write_bytes(msgpack_serialize(tree))


@pytest.mark.parametrize("name", ["t5", "t5-1.0"])
def test_the_native_layout_comes_in(name, tmp_path):
    settings, params, arrays = arrays_of(name, t5x.native)
    assert "decoder/layers_1/encoder_decoder_attention/query/kernel" in arrays
    write_native(tmp_path, arrays)
    source = t5x.understood(open_arrays(tmp_path), settings)
    jax.tree.map(np.testing.assert_array_equal, source.params(MeshConfig().build()), params)


def test_the_legacy_layout_comes_in(tmp_path):
    import tensorflow as tf

    settings, params, arrays = arrays_of("t5", t5x.legacy)
    assert "decoder/block_001/layer_001/EncDecAttention/q" in arrays
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in arrays.items():
            tf.compat.v1.get_variable(name, initializer=value)
        tf.compat.v1.get_variable("shared/embedding_slot_v", initializer=np.zeros(3, np.float32))
        tf.compat.v1.get_variable("global_step", initializer=np.int64(7))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"), global_step=7)
    prefix = tensorflow_checkpoint.prefix_of(tmp_path)
    assert prefix == tmp_path / "model.ckpt-7"
    source = t5x.understood(tensorflow_checkpoint.open_arrays(prefix), settings)
    jax.tree.map(np.testing.assert_array_equal, source.params(MeshConfig().build()), params)


def test_what_does_not_fit_is_named(tmp_path):
    settings, _, arrays = arrays_of("t5", t5x.native)
    arrays.pop("encoder/layers_1/mlp/wo/kernel")
    write_native(tmp_path, arrays)
    with pytest.raises(UserError, match="encoder/layers_1/mlp/wo/kernel is missing"):
        t5x.understood(open_arrays(tmp_path), settings)
    with pytest.raises(UserError, match="neither a T5X checkpoint"):
        open_arrays(tmp_path / "nothing")
    with pytest.raises(UserError, match="kind decoder"):
        t5x.understood(open_arrays(tmp_path), gpt.gpt(num_layers=1, d_model=8, num_heads=2))


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """A checkpoint in T5X's own layout; a test that changes it puts it back."""
    place = tmp_path_factory.mktemp("native")
    write_native(place, arrays_of("t5", t5x.native)[2])
    return place


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"driver": "json"}, "uses driver 'json', not one of zarr"),
        ({"kvstore": {"driver": "http", "path": "http://x/.."}}, "is not the name of a file"),
        ({"kvstore": {"path": ".."}}, "is not the name of a file"),
        ({"kvstore": {"path": "link"}}, "points outside"),
        ({"kvstore": 5}, "not a T5X checkpoint"),
        ({"metadata": {}}, "not a T5X checkpoint"),
    ],
)
def test_an_array_that_lies_elsewhere_is_refused(native, tmp_path, changed, said):
    (tmp_path / "link").symlink_to(native)
    tree = msgpack_restore((native / "checkpoint").read_bytes())
    node = {"driver": "zarr", "kvstore": {"driver": "file", "path": "x"}, "metadata": {"shape": [1]}, **changed}
    tree["optimizer"]["target"]["decoder"]["mine"] = node
    (tmp_path / "checkpoint").write_bytes(msgpack_serialize(tree))
    with pytest.raises(UserError, match=said) as error:
        open_arrays(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/checkpoint")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_the_file_holds_it_is_read_or_refused_in_one_line(native, data):
    file = native / "checkpoint"
    whole = file.read_bytes()
    try:
        file.write_bytes(data.draw(changed_bytes(whole)))
        told(lambda: [arrays.read(name) for arrays in [open_arrays(native)] for name in arrays.names[:3]])
    finally:
        file.write_bytes(whole)


def test_a_damaged_checkpoint_of_tensorflow_is_one_line(tmp_path):
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.get_variable("a", initializer=np.arange(1000, dtype=np.float32))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt-1"))
    prefix = tensorflow_checkpoint.prefix_of(tmp_path)
    assert tensorflow_checkpoint.open_arrays(prefix).read("a").shape == (1000,)
    for ending in (".data-00000-of-00001", ".index"):
        file = tmp_path / f"model.ckpt-1{ending}"
        whole = file.read_bytes()
        for content in (whole[: len(whole) // 2], b"", whole[:20] + b"\xff" * 20 + whole[40:]):
            file.write_bytes(content)
            line = told(lambda: tensorflow_checkpoint.open_arrays(prefix).read("a"))
            assert line.startswith(f"{prefix}: cannot be read as a TensorFlow checkpoint")
        file.write_bytes(whole)

import numpy as np
import tensorflow as tf

from t2t.data.cached.encoding import decode, encode, finish
from t2t.data.cached.manifest import Field


def test_examples_come_back_as_they_were():
    examples = [
        {
            "ids": np.arange(n, dtype=np.int32) - 1,
            "big": np.int64(2**62 + n),
            "weights": np.linspace(0, 1, n, dtype=np.float32),
            "exact": np.float64(1 / 3 + n),
            "text": f"täxt {n}\0".encode(),
            "texts": np.array([b"a", b"\xff\x00"] * n, dtype=object),
            "table": np.arange(6, dtype=np.int16).reshape(2, 3) * n,
            "names": np.array([[b"x"], [b"yz"]], dtype=object),
            "true": np.bool_(n % 2),
        }
        for n in (3, 0, 1)
    ]
    ranks = {"ids": 1, "weights": 1, "texts": 1, "table": 2, "names": 2}
    types = {"text": "string", "texts": "string", "names": "string", "true": "bool"}
    fields = {
        name: Field(dtype=types.get(name, np.asarray(value).dtype.name), rank=ranks.get(name, 0))
        for name, value in examples[0].items()
    }
    records = [encode(example, fields) for example in examples]
    made = tf.data.Dataset.from_tensors(records).map(lambda r: decode(r, fields)).unbatch()
    made = made.map(lambda example: finish(example, fields))
    for name, field in fields.items():
        assert made.element_spec[name].dtype.name == field.dtype
        assert made.element_spec[name].shape.rank == field.rank
    for want, got in zip(examples, made.as_numpy_iterator(), strict=True):
        for name in fields:
            np.testing.assert_array_equal(got[name], want[name])

"""A machine's description is JSON, true of this one, and counts alike devices together."""

import json
import platform
from types import SimpleNamespace

import jax

from t2t.train import machine as module


def test_describes_this_machine():
    values = module.machine()
    assert json.loads(json.dumps(values)) == values
    assert values["python"] == platform.python_version()
    assert values["jax"] == jax.__version__
    assert sum(device["count"] for device in values["devices"]) == jax.device_count()
    assert values["processes"] == 1
    assert values["cores"] >= 1


def test_alike_devices_are_counted_together_and_memory_is_the_local_ones():
    def no_memory():
        raise RuntimeError("not addressable")

    far = [SimpleNamespace(platform="gpu", device_kind="H100", memory_stats=no_memory)] * 6
    near = [SimpleNamespace(platform="gpu", device_kind="H100", memory_stats=lambda: {"bytes_limit": 64 * 2**30})] * 2
    odd = [SimpleNamespace(platform="gpu", device_kind="odd", memory_stats=no_memory)]
    assert module._devices(far + near + odd, near + odd) == [
        {"platform": "gpu", "kind": "H100", "count": 8, "memory_gb": 64.0},
        {"platform": "gpu", "kind": "odd", "count": 1},
    ]

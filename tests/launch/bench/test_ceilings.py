import jax
import numpy as np
import pytest

from t2t.launch.bench.ceilings import Ceilings, chip_of, measure, published, rates
from t2t.plan.chips import CHIPS
from tests.launch.bench.workloads import QUICK


def test_rates_count_what_was_computed_and_moved_on_one_device_and_on_all():
    measured = list(rates(limits=QUICK, sizes=(16,), copied=2**15))
    assert [it.name for it in measured if "one device" not in it.name] == ["matmul float32", "matmul bfloat16", "copy"]
    for it in measured:
        devices = it.details["devices"]
        assert devices in (1, jax.device_count())
        if it.details["what"] == "matmul":
            assert it.details["flops"] == 2 * it.details["size"] ** 3 * devices
        else:
            assert it.details["bytes"] == 2 * 2**15 // devices * devices  # read and written; virtual devices divide it
    found = Ceilings.of(measured)
    by_name = {it.name: it.median for it in measured}
    assert found.matmul == {name: by_name[f"matmul {name}"] for name in ("float32", "bfloat16")}
    assert found.matmul_device["bfloat16"] == by_name["matmul bfloat16, one device"]
    assert (found.copy, found.copy_device) == (by_name["copy"], by_name["copy, one device"])


def test_shares_are_of_the_type_computed_in():
    found = Ceilings(matmul={"float32": 200.0}, copy=50.0)
    assert found.of_matmul("float32", 50.0) == (0.25, "measured float32 matmul")
    assert found.of_matmul("float16", 50.0) == (None, "")
    assert found.of_copy(5.0) == (0.1, "measured copy")


def test_types_are_those_asked_for():
    found = measure(("float32",), limits=QUICK, sizes=(16,), copied=2**12)
    assert set(found.matmul) == {"float32"}
    assert np.isfinite(found.copy)


@pytest.mark.parametrize(("kind", "chip"), [("TPU v5 lite", "v5e"), ("NVIDIA H100 80GB HBM3", "h100"), ("cpu", None)])
def test_published_numbers_are_found_by_what_jax_calls_a_device(kind, chip):
    class Device:
        device_kind = kind

    assert chip_of(Device()) is (None if chip is None else CHIPS[chip])


def test_published_rates_are_by_type():
    assert published(CHIPS["h100"], "bfloat16") == 2 * published(CHIPS["h100"], "float32") == 989.4e12

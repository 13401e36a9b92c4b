import functools

import jax
import numpy as np
import pytest

from t2t.decode.rows import bucket
from t2t.errors import UserError
from t2t.launch.bench import decode
from tests.launch.bench.workloads import CEILINGS, named, workload


@functools.cache
def tiny(kind):
    work = workload(kind, rows=(2,), generate=None if kind == "encoder" else 4)
    return work, work.params()


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_cache_bytes_are_those_of_the_real_arrays(kind):
    work, params = tiny(kind)
    batch = decode._requests(work, 3, 1)
    room = decode.lengths_of(work).room
    _, cache = jax.jit(work.program.model.start, static_argnums=2)(params, batch, room)
    real = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    assert decode.cache_bytes(work, params, batch) == real > 0
    # What is known of the encoder's tokens and of the prompt is there once for all beams.
    once = sum(leaf.nbytes for leaf in jax.tree.leaves((cache["layers"]["memory"], cache["rows"].get("memory"))))
    prompt = cache["rows"]["prompt"].shape[1]
    keys_values = sum(leaf.nbytes for leaf in jax.tree.leaves(cache["layers"]["cache"]))
    once += keys_values * prompt // room + cache["rows"]["prompt"].nbytes
    of_rows = real - once - cache["rows"]["room"].nbytes * prompt // room
    begin = cache["rows"]["length"].nbytes
    assert decode.cache_bytes(work, params, batch, beams=4) == 4 * (of_rows + begin) + once


def test_a_token_reads_all_parameters_but_of_tables_the_rows_looked_up():
    work, params = tiny("decoder")
    batch = decode._requests(work, 2, 1)
    table = params["embeddings"]["token"]["table"]
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert decode.params_read(work, params, batch) == whole - table.nbytes + 2 * 16 * 4


def test_an_encoder_is_not_read_again():
    work, params = tiny("encoder_decoder")
    sizes = {name: sum(leaf.nbytes for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    batch = decode._requests(work, 2, 1)
    read = decode.params_read(work, params, batch)
    assert read < sum(sizes.values()) - sizes["encoder"]
    assert read > sizes["decoder"] / 2


@pytest.mark.slow
def test_rates_and_shares_go_together_and_near_lengths_compile_nothing():
    work, _ = tiny("decoder")
    found = named(list(decode.measure(work)))
    for way in decode.WAYS:
        rate = 2 * 4 / found[f"{way}, batch 2"].details["seconds"]  # of the median: between the slowest and the fastest
        samples = found[f"{way}, batch 2"].samples
        assert min(samples) * (1 - 1e-9) <= rate <= max(samples) * (1 + 1e-9)
        if (read := found.get(f"{way}, bytes read, batch 2")) is not None:
            each = np.array(found[f"{way}, a token, batch 2"].samples)
            total = read.details["cache_bytes"] + read.details["parameter_bytes"]
            np.testing.assert_allclose(np.array(read.samples) * each, total)
            assert read.share == read.median / CEILINGS.copy
    prompt, rate = found["prompt, batch 2"], found["prompt FLOPs, batch 2"]
    np.testing.assert_allclose(np.array(rate.samples) * np.array(prompt.samples), rate.details["flops"])
    assert found["programs, first request"].median >= 1
    assert set(found["programs, others of near lengths"].samples) == {0.0}


def test_an_encoder_fills_masks():
    found = named(list(decode.measure(tiny("encoder")[0])))
    seconds, rate = found["fill-mask, batch 2"], found["fill-mask, masks, batch 2"]
    np.testing.assert_allclose(np.array(rate.samples) * np.array(seconds.samples), 2 * seconds.details["masks"])
    assert set(found["programs, others of near lengths"].samples) == {0.0}


@pytest.mark.parametrize("kind", ["decoder", "encoder", "encoder_decoder"])
@pytest.mark.parametrize("prompt", [2, 17, 33])
def test_near_lengths_are_different_and_padded_alike(kind, prompt):
    lengths = decode.near_lengths(workload(kind, prompt=prompt, generate=None if kind == "encoder" else 4))
    head = 1 if kind == "decoder" else 0
    assert len(set(lengths)) == len(lengths) >= 1
    assert len({bucket(length + head) for length in lengths}) == 1
    assert max(lengths) <= prompt


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("encoder", {"model": {"head": "span"}}, "a head for 'span' cannot generate"),
        ("encoder", {"generate": 3}, "--generate 3: encoder is an encoder"),
        ("encoder", {"prompt": 49}, "do not fit the 48 positions"),
    ],
)
def test_what_cannot_be_decoded_is_refused(kind, options, message):
    with pytest.raises(UserError, match=message):
        decode.check(workload(kind, **options))

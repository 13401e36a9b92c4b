"""What backends refuse, alike in configurations and in calls, each time with those that can."""

import jax
import jax.numpy as jnp
import pytest

from t2t.errors import UserError
from t2t.nn.attention import ABILITIES, Needs, attention, check_abilities
from t2t.nn.masks import Mask
from t2t.sharding import MeshConfig, activate, assume_platform, interpreted, platform


@pytest.mark.parametrize(
    ("backend", "needs", "message"),
    [
        ("einsm", {}, r"'einsm'.*Nearest: einsum"),
        ("splash", {"dropout": 0.1}, r"no dropout.*0.1 \(--model.attention-dropout\). Nearest: chunked, einsum\."),
        ("splash", {"bias": True}, r"no bias.*Nearest: flash, chunked, einsum\."),
        (
            "splash",
            {"window": 8, "prefix": True},
            r"window of 8 .*with a prefix mask.*Nearest: cudnn, chunked, einsum\.",
        ),
        ("splash", {"memory": True}, r"attend to an encoder's output together .*Nearest: chunked, einsum\."),
        *(
            (
                backend,
                {"sinks": True},
                r"no attention sinks \(--model.decoder.attention-sinks\). Nearest: chunked, einsum\.",
            )
            for backend in ("splash", "flash", "cudnn")
        ),
        *(
            (backend, {"sparse": True}, r"no sparsity patterns \(LayerOptions.sparse\). Nearest: chunked, einsum\.")
            for backend in ("splash", "flash", "cudnn")
        ),
        ("splash", {"context": 2}, r"context is 2 \(--mesh.context\)"),
        ("splash", {"dtype": "float16"}, r"bfloat16 or float32 .*not in float16"),
        ("splash", {"block": 200}, r"multiple of 128, and --model.attention-block is 200.*nearest multiple being 128"),
        ("splash", {"block": 4}, r"nearest multiple being 128"),
        ("splash", {"platform": "gpu"}, r"runs on TPUs, not on gpu. Nearest: cudnn, chunked, einsum\."),
        ("flash", {"window": 8}, r"no sliding window, and window is 8.*Nearest: splash"),
        ("flash", {"prefix": True}, r"no prefix.*Nearest: splash"),
        ("flash", {"bias": True, "dropout": 0.1}, r"no dropout.*Nearest: chunked, einsum"),
        ("cudnn", {"bias": True}, r"gradient of a bias.*Nearest: flash, chunked, einsum"),
        ("cudnn", {"dtype": "float32"}, r"bfloat16 or float16 .*not in float32"),
        ("cudnn", {"platform": "cpu"}, r"NVIDIA GPUs, not on cpu. Nearest: chunked, einsum"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_who_can(backend, needs, message):
    with pytest.raises(UserError, match=message):
        check_abilities(backend, Needs(**{"dtype": "bfloat16", **needs}))


def test_einsum_and_chunked_do_everything():
    everything = Needs(
        dtype="float32",
        dropout=0.1,
        bias=True,
        window=3,
        sparse=True,
        prefix=True,
        sinks=True,
        memory=True,
        context=4,
        block=7,
        platform="cpu",
    )
    check_abilities("einsum", everything)
    check_abilities("chunked", everything)


def test_calls_ask_for_what_they_are_given():
    q = jnp.zeros((1, 4, 2, 8), jnp.bfloat16)
    ids = jnp.ones((1, 4), jnp.int32)
    mask = Mask(queries=ids, keys=ids)
    with interpreted():
        with pytest.raises(UserError, match="no dropout"):
            attention(q, q, q, mask=mask, backend="splash", dropout=0.1, dropout_key=jax.random.key(0))
        with pytest.raises(UserError, match="no bias"):
            attention(q, q, q, mask=mask, backend="splash", bias=jnp.zeros((1, 2, 4, 4)))
        with pytest.raises(UserError, match="not in float16"):
            attention(*(3 * [q.astype(jnp.float16)]), mask=mask, backend="splash")
        causal = Mask(queries=ids, keys=ids, index=jnp.arange(4)[None], causal=True)
        for backend in ("splash", "flash"):
            with pytest.raises(UserError, match=r"self_attention.*Nearest: chunked"):
                attention(q, q, q, mask=causal, backend=backend)
    with assume_platform("gpu"), pytest.raises(UserError, match="even lengths, not 3 queries and 4 keys"):
        attention(q[:, :3], q, q, mask=Mask(queries=ids[:, :3], keys=ids), backend="cudnn")


@pytest.mark.parametrize("backend", [name for name, can in ABILITIES.items() if can.platform is not None])
def test_a_kernel_is_refused_on_another_platform_and_where_the_mesh_divides_rows(backend):
    q = jnp.zeros((4, 4, 2, 8), jnp.bfloat16)
    ids = jnp.ones((4, 4), jnp.int32)
    mask = Mask(queries=ids, keys=ids)
    with pytest.raises(UserError, match="not on cpu"), assume_platform("cpu"):
        attention(q, q, q, mask=mask, backend=backend)
    with activate(MeshConfig(data=4, context=2).build()), pytest.raises(UserError, match=r"--mesh.context"):
        attention(q, q, q, mask=mask, backend=backend)


def test_the_platform_is_that_of_the_meshs_devices_unless_another_is_assumed():
    assert platform() == jax.default_backend()
    with activate(MeshConfig().build()):
        assert platform() == jax.devices()[0].platform
        with assume_platform("cuda"):
            assert platform() == "gpu"
    with interpreted():
        assert platform() == "tpu"

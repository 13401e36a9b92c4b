"""What docs/extending.md says of its examples holds: the code of the page itself is imported and tried, with small models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t2t.api.exporters import Exporter
from t2t.api.exporters import register as register_format
from t2t.api.user_code import imports
from t2t.decode import Beam, Greedy, generate
from t2t.errors import UserError
from t2t.export import loader, write_stablehlo
from t2t.export.directory import flatten
from t2t.export.family import Family
from t2t.export.huggingface import opened
from t2t.launch.export import export
from t2t.launch.main import run
from t2t.models.config import LayerOptions
from t2t.models.families import exportable, family_of
from t2t.models.families import register as register_family
from t2t.objectives import CrossEntropy
from t2t.optim import Constant, Optax
from t2t.optim.balance import with_load_rule, without_loads
from t2t.plan.topology import ENVIRONMENT
from t2t.sharding import MeshConfig, assume_platform
from t2t.train.guard import healthy
from t2t.train.state import TrainState
from t2t.train.step import make_step
from tests.docs.test_snippets import EVALUATED, FENCE, ROOT, SHORT
from tests.export.exported_models import VOCABULARY
from tests.export.test_huggingface import SIZE, saved
from tests.models.tiny import VOCAB, batch, config, logits_of, params_of, quick_jit, row, rows, some_batch

PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with the files of the page."""
    folder = tmp_path_factory.mktemp("extending")
    for _, name, body in FENCE.findall(PAGE):
        if name:
            (folder / name).write_text(body, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def page(files):
    """The page's modules, imported as `--import` does it."""
    names = ("gated", "sparse", "focal", "sharpness", "lion", "gpt1", "npz")
    made = SimpleNamespace(**{name: imports.load(str(files / f"{name}.py")) for name in names})
    imports.forget()  # what other tests train does not keep them
    return made


@pytest.fixture(scope="module")
def gated(page):
    """A small decoder with the page's mixer."""
    layer = LayerOptions(mixer=page.gated.GatedConfig(inner=24))
    return config("gpt", positions="none", pattern=(layer,))


def texts_of(*lengths):
    random = np.random.default_rng(0)
    return [random.integers(1, VOCAB, n) for n in lengths]


def test_packed_rows_equal_unpacked_ones(gated):
    texts = texts_of(4, 6, 3, 5)
    logits = np.asarray(
        logits_of(gated)(batch("decoder", None, rows([row(texts, 21), *(row([x], 21) for x in texts)])))
    )
    at = 0
    for index, text in enumerate(texts):
        np.testing.assert_allclose(logits[0, at : at + len(text)], logits[index + 1, : len(text)], atol=1e-5, rtol=1e-5)
        at += len(text)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_forward_pass_equals_decoding_step_by_step(gated, platform):
    lengths, steps = [6, 1, 4], 3
    model, params = params_of(gated)
    texts = texts_of(*(n + steps for n in lengths))
    expected = np.asarray(logits_of(gated)(batch("decoder", None, rows([row([x], 12) for x in texts]))))
    prompts = batch("decoder", None, rows([row([x[:n]], 7) for x, n in zip(texts, lengths, strict=True)]))

    def decoded(params):
        logits, cache = model.start(params, prompts, 12)
        step, found = model.stepper(params), [logits]
        for at in range(steps):
            logits, cache = step(cache, np.array([x[n + at] for x, n in zip(texts, lengths, strict=True)]))
            found.append(logits)
        return found

    with assume_platform(platform):
        found = quick_jit(decoded)(params)
    for at, logits in enumerate(found):
        wanted = np.stack([expected[i, n - 1 + at] for i, n in enumerate(lengths)])
        np.testing.assert_allclose(logits, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", [Greedy(), Beam(size=3, return_n=2)])
def test_scores_of_generated_texts_are_those_of_the_forward_pass(gated, way):
    model, params = params_of(gated)
    (prompt,) = texts_of(3)
    made = generate(model, params, batch("decoder", None, row([prompt], 4)), way, length=5, eos_id=VOCAB)
    found = [np.concatenate([prompt, ids]) for ids in np.asarray(made.ids)[0]]
    logs = jax.nn.log_softmax(logits_of(gated)(batch("decoder", None, rows([row([x], 8) for x in found]))))
    for text, own, score in zip(found, np.asarray(logs), np.asarray(made.scores)[0], strict=True):
        total = sum(own[at - 1, text[at]] for at in range(3, 8))
        if isinstance(way, Greedy):
            assert [own[at - 1].argmax() for at in range(3, 8)] == list(text[3:])
        else:
            total /= ((5 + 5) / 6) ** way.length_penalty
        np.testing.assert_allclose(total, score, rtol=1e-4)


def test_the_exported_program_gives_the_same_tokens(page, tmp_path):
    layer = LayerOptions(mixer=page.gated.GatedConfig(inner=24))
    model, params = params_of(config("gpt", num_layers=1, positions="none", pattern=(layer,), vocab_size=SIZE))
    sizes = {"length": 8, "prompt_length": 8}
    write_stablehlo(model, params, VOCABULARY, tmp_path / "out", length=4, fixed_lengths=sizes, platforms=("cpu",))
    described = json.loads((tmp_path / "out/manifest.json").read_text())["entries"]
    assert described["greedy"]["inputs"]["ids"]["shape"] == ["batch", 8]
    assert described["logits"]["inputs"]["ids"]["shape"] == ["batch", 8]
    texts = texts_of(6, 3)
    prompts = rows([row([text], 8) for text in texts])
    entries = loader.load(tmp_path / "out")
    found = entries["greedy"]({"ids": prompts.ids, "lengths": np.array([6, 3])})["ids"]
    made = generate(
        model,
        params,
        batch("decoder", None, prompts),
        Greedy(),
        length=4,
        eos_id=VOCABULARY.end_ids,
        vocab_size=VOCABULARY.size,
    )
    np.testing.assert_array_equal(found, made.ids[:, 0])
    whole = entries["logits"]({"ids": prompts.ids})["logits"]
    expected = quick_jit(model.logits)(params, batch("decoder", None, prompts))
    for index, text in enumerate(texts):
        np.testing.assert_allclose(whole[index, : len(text)], expected[index, : len(text)], atol=1e-5)


def test_an_encoder_with_the_mixer_is_refused(page):
    layer = LayerOptions(mixer=page.gated.GatedConfig(inner=24))
    with pytest.raises(UserError, match=r"GatedConfig does not see later tokens"):
        config("bert", pattern=(layer,))


def test_the_recipe_is_planned(files, page, monkeypatch, capsys):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(imports, "_used", {})
    assert run(["plan", f"{files / 'gated.py'}:tiny", "--topology", "v5e:2x2", "--compile", "0"]) == 0
    # Of each of two layers the recurrence's four products and the feed-forward layer's two, and the logits.
    layer, head, tokens = 4 * 64 * 128 + 2 * 64 * 256, 64 * 384, 24 * 128
    said = f"{3 * 2 * tokens * (2 * layer + head) / 1e9:.2f}B"
    assert f"{said} model FLOPs a step, {said} computed" in capsys.readouterr().out


def test_the_feed_forward_layer_reports_its_terms(page):
    sparse = LayerOptions(feed_forward=page.sparse.SparseConfig(inner=24, penalty=0.5))
    model, params = params_of(config("gpt", num_layers=2, pattern=(sparse,)))
    own = some_batch("decoder")
    sums = quick_jit(lambda params: CrossEntropy().loss(model, params, own))(params)
    activation, weight = sums.extra["activation"]
    active, _ = sums.extra["active_units"]
    assert float(weight) == 2 * 2 * 8  # layers, rows, tokens
    assert 0.0 < float(active / weight) < 1.0
    np.testing.assert_allclose(sums.objective, sums.loss + 0.5 * activation, rtol=1e-6)


def test_the_focal_loss_without_gamma_is_cross_entropy(page):
    model, params = params_of(config("gpt", num_layers=1))
    own = some_batch("decoder")
    objectives = (CrossEntropy(), page.focal.Focal(gamma=0.0), page.focal.Focal(gamma=2.0))

    def sums_and_gradients(params):
        found = []
        for objective in objectives:
            sums = objective.loss(model, params, own)
            found.append((sums, jax.grad(lambda p, of=objective: of.loss(model, p, own).objective)(params)))
        return found

    plain, same, focal = quick_jit(sums_and_gradients)(params)
    for name in ("objective", "loss", "correct", "weight"):
        np.testing.assert_allclose(getattr(same[0], name), getattr(plain[0], name), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), same[1], plain[1])
    assert float(focal[0].objective) < float(focal[0].loss)
    np.testing.assert_allclose(focal[0].loss, plain[0].loss, rtol=1e-5)


def test_the_page_s_lion_is_that_of_optax(page):
    model, params = params_of(config("gpt", num_layers=1))
    gradients = jax.tree.map(lambda p: jnp.sin(7 * p), params)
    schedule = Constant(peak=1e-2)
    ways = [
        page.lion.Lion(schedule=schedule, weight_decay=0.1),
        Optax(name="optax.lion", arguments={"weight_decay": 0.1}, schedule=schedule),
    ]

    def updates(params):
        found = []
        for transform in (way.build(model.specs) for way in ways):
            state = transform.init(params)
            first, state = transform.update(gradients, state, params)
            second, _ = transform.update(jax.tree.map(lambda g: -0.5 * g, gradients), state, params)
            found.append((first, second))
        return found

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *quick_jit(updates)(params))


def test_the_family_and_the_format_write_and_read(page, tmp_path, capsys):
    settings = config("gpt-1", vocab_size=SIZE, d_ff=64)
    assert exportable(settings)[0].name == "GPT-1"
    assert exportable(config("gpt", vocab_size=SIZE))[0].name == "GPT-2"
    params = saved(tmp_path / "run", settings)
    export(str(tmp_path / "run"), format="huggingface", out=str(tmp_path / "out"))
    assert "logits of the exported model differ by at most 0.0e+00" in capsys.readouterr().err
    with opened(tmp_path / "out", family_of) as source:
        assert source.family.name == "GPT-1"
        jax.tree.map(np.testing.assert_array_equal, source.params(MeshConfig().build()), params)
    assert run(["export", str(tmp_path / "run"), "--format", "npz", "--out", str(tmp_path / "npz")]) == 0
    arrays = np.load(tmp_path / "npz/weights.npz")
    jax.tree.map(np.testing.assert_array_equal, dict(arrays), flatten(params))
    assert json.loads((tmp_path / "npz/model.json").read_text())["vocab_size"] == SIZE


def test_names_that_are_taken_are_refused():
    with pytest.raises(UserError, match=r"exporter Mine: 'safetensors' is a format of the library"):

        @register_format
        class Mine(Exporter):
            name = "safetensors"

    with pytest.raises(UserError, match=r"family Other: 'gpt2' belongs to the built-in family GPT-2"):

        @register_family
        class Other(Family):
            name = "Other"
            model_types = ("gpt2",)


TRAINED = [*SHORT, *EVALUATED, "--data.shards", "2"]


@pytest.mark.slow  # trainings
def test_runs_answer_and_train_on_elsewhere(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("gated", "sparse"):
        (here / name).mkdir(parents=True)
        shutil.copy(files / f"{name}.py", here / name / f"{name}.py")
        assert run(["train", str(here / name / f"{name}.py:tiny"), "--dir", str(here / name / "run"), *TRAINED]) == 0
    lines = [json.loads(line) for line in (here / "sparse/run/metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "active_units" in line]
    assert [line["step"] for line in logged] == [1, 2]
    assert all(0 < line["active_units"] < 1 and line["activation"] > 0 for line in logged)
    shutil.copytree(here / "gated/run", there / "run")
    shutil.rmtree(here / "gated")

    def t2t(*words):
        environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}  # another user's machine
        command = [sys.executable, "-m", "t2t.launch", *words]
        return subprocess.run(command, cwd=there, env=environment, capture_output=True, text=True, timeout=240)

    ask = ("infer", "run", "--text", "reverse: old map", "--max-length", "8")
    refused = t2t(*ask)
    assert refused.returncode == 2
    assert "GatedConfig" in refused.stderr
    assert "--trust-code" in refused.stderr
    for more in ((), ("--beams", "3")):
        answered = t2t(*ask, *more, "--trust-code")
        assert answered.returncode == 0, answered.stderr
        assert "running code of run: run/code/gated.py" in answered.stderr
    trained = t2t("train", "from:run", "--dir", "next", "--trust-code", *TRAINED)
    assert trained.returncode == 0, trained.stderr
    assert (there / "next/code/gated.py").read_bytes() == (files / "gated.py").read_bytes()


def test_the_update_is_that_of_the_worst_point_nearby(page):
    model, params = params_of(config("gpt"))
    rows_, objective = some_batch("decoder"), page.sharpness.SharpnessAware(radius=0.5)

    def loss(params):
        sums = CrossEntropy().loss(model, params, rows_)
        return sums.objective / sums.weight

    grads = jax.grad(loss)(params)
    norm = optax.global_norm(grads)
    worst = jax.tree.map(lambda p, g: p + 0.5 * g / norm, params, grads)
    transform = optax.sgd(1.0)
    state = TrainState(
        step=jnp.int32(0), params=params, opt_state=transform.init(params), key=jax.random.key(0), health=healthy()
    )
    step = make_step(model, transform, objective, learning_rate=lambda step: jnp.float32(1.0))
    after, metrics = quick_jit(step)(state, rows_)
    expected = jax.grad(loss)(worst)
    assert float(metrics["grad_norm"]) == pytest.approx(float(optax.global_norm(expected)), rel=1e-4)
    assert abs(float(metrics["grad_norm"]) / float(norm) - 1) > 1e-2
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(new, old - g, atol=1e-5), after.params, params, expected
    )


@pytest.mark.slow
def test_the_worst_point_nearby_leaves_out_the_load_of_experts(page):
    model, params = params_of(config("deepseek"))
    rows_, objective = some_batch("decoder"), page.sharpness.SharpnessAware(radius=0.5)
    transform = with_load_rule(optax.sgd(1.0), model.specs)
    state = TrainState(
        step=jnp.int32(0), params=params, opt_state=transform.init(params), key=jax.random.key(0), health=healthy()
    )
    step = make_step(model, transform, objective, learning_rate=lambda step: jnp.float32(1.0))
    after, metrics = quick_jit(step)(state, rows_)

    def loss(params):
        sums = CrossEntropy().loss(model, params, rows_)
        return sums.objective / sums.weight

    at = quick_jit(jax.grad(loss))
    grads = without_loads(at(params), model.specs)
    worst = jax.tree.map(lambda p, g: p + 0.5 * g / optax.global_norm(grads), params, grads)
    expected = without_loads(at(worst), model.specs)
    assert float(metrics["grad_norm"]) == pytest.approx(float(optax.global_norm(expected)), rel=1e-4)
    load = np.asarray(at(params)["decoder"]["layers"]["moe"]["bias"])
    wanted = jax.tree.map(lambda old, g: old - g, params, expected)
    wanted["decoder"]["layers"]["moe"]["bias"] += 0.01 * np.sign(load.mean(axis=-1, keepdims=True) - load)
    jax.tree.map(lambda new, right: np.testing.assert_allclose(new, right, atol=1e-5), after.params, wanted)

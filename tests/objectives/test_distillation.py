"""The loss of distillation is its formula over all logits, in blocks and on a mesh; and a run reads its teacher again bit for bit, or is refused."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.api.recipes import distilled_of
from t2t.checkpoint import Checkpoints, params_of_layers
from t2t.data import Data
from t2t.errors import UserError
from t2t.models.config import LayerOptions
from t2t.nn.layer_outputs import recorded
from t2t.objectives import CrossEntropy, Distillation
from t2t.objectives.objective import Teacher
from t2t.optim import AdamW, Constant, Trainable
from t2t.optim.state_axes import abstract_params
from t2t.sharding import MeshConfig, activate
from t2t.train.experiment import Experiment, StartFrom, check
from t2t.train.program import Program
from t2t.train.run import RunRecord, SavedRun, open_run
from t2t.train.teacher import TEACHER, check_vocabulary
from t2t.vocabularies import Bytes
from tests.models.test_sharded import layout, packed_batch
from tests.models.tiny import config, params_of, quick_jit
from tests.train.test_ema import assert_same
from tests.train.test_frozen_runs import TINY as RUN
from tests.train.test_frozen_runs import run

OBJECTIVE = Distillation(teacher="some", temperature=3.0, hard_weight=0.3)
SMALL, LARGE = {"num_heads": 8}, {"num_heads": 8, "num_layers": 3, "d_model": 24}
LABELS = {"head": "label", "labels": ("no", "maybe", "yes")}


@functools.cache
def pair(name, **options):
    """Return the student with its parameters, and the teacher."""
    return params_of(config(name, **SMALL, **options)), Teacher(*params_of(config(name, **LARGE, **options)))


def batch_of(model):
    """Return packed rows, with targets that the model scores."""
    batch = packed_batch(model.config.kind)
    return replace(batch, targets=np.asarray(batch.targets) % model.config.num_outputs(1))


def of_all_logits(objective, model, teacher, params):
    batch = batch_of(model)
    own, theirs = model.logits(params, batch), teacher.model.logits(teacher.params, batch)
    picked = jnp.take_along_axis(jax.nn.log_softmax(own), jnp.asarray(batch.targets)[..., None], axis=-1)[..., 0]
    p = jax.nn.softmax(theirs / objective.temperature)
    kl = jnp.sum(p * (jnp.log(p) - jax.nn.log_softmax(own / objective.temperature)), axis=-1)
    each = -objective.hard_weight * picked + (1 - objective.hard_weight) * objective.temperature**2 * kl
    return jnp.sum(each * batch.weights)


def taught(objective, model, teacher, params):
    return objective.taught_loss(teacher, model, params, batch_of(model)).objective


def values(function, objective, model, teacher, params):
    return quick_jit(jax.value_and_grad(functools.partial(function, objective, model, teacher)))(params)


@pytest.mark.parametrize(("name", "options"), [("t5", {}), ("bert", LABELS)], ids=["t5", "labels of texts"])
def test_loss_and_gradients_are_those_of_the_formula(name, options):
    (model, params), teacher = pair(name, **options)
    expected = values(of_all_logits, OBJECTIVE, model, teacher, params)
    assert_close(values(taught, replace(OBJECTIVE, block=7), model, teacher, params), expected)


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), one, other)


def test_on_a_mesh_the_loss_is_the_same():
    (model, params), teacher = pair("gpt")
    expected = values(taught, OBJECTIVE, model, teacher, params)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    places, theirs = layout(model.specs, mesh), layout(teacher.model.specs, mesh)

    def on_mesh(params, teacher_params):
        objective = replace(OBJECTIVE, block=5)
        return taught(objective, model, replace(teacher, params=teacher_params), params)

    with activate(mesh):
        found = quick_jit(jax.value_and_grad(on_mesh), in_shardings=(places, theirs), out_shardings=(None, places))(
            jax.device_put(params, places), jax.device_put(teacher.params, theirs)
        )
    assert_close(found, expected)


def test_without_a_part_the_objective_is_the_other_part():
    (model, params), teacher = pair("gpt")
    alone, soft = replace(OBJECTIVE, hard_weight=1.0, z_loss=0.01), replace(OBJECTIVE, hard_weight=0.0)

    @quick_jit
    def sums(params):
        batch = batch_of(model)
        return (
            CrossEntropy(z_loss=0.01).loss(model, params, batch),
            alone.taught_loss(teacher, model, params, batch),
            soft.taught_loss(Teacher(model, params), model, params, batch),
        )

    hard, found, itself = sums(params)
    for name in ("objective", "loss", "weight", "correct"):
        np.testing.assert_allclose(getattr(found, name), getattr(hard, name), rtol=1e-6)
    assert float(found.extra["divergence"][0]) > 1
    np.testing.assert_allclose(itself.objective, 0.0, atol=1e-3)


def test_hidden_states_are_those_of_the_layers():
    options = {"num_layers": 5, "pattern": (LayerOptions(window=3), LayerOptions()), "num_heads": 4}
    (model, params), (deep, theirs) = params_of(config("llama", num_heads=4)), params_of(config("llama", **options))
    batch = batch_of(model)
    shallow = config("llama", **{**options, "num_layers": 2}).build()
    objective = replace(OBJECTIVE, hidden_weight=2.0, teacher_layers=(1, 4))

    @quick_jit
    def computed(params):
        found = []
        cut = params_of_layers(theirs, abstract_params(shallow.specs), (0, 1))
        for one, own in ((model, params), (deep, theirs), (shallow, cut)):
            with recorded() as outputs:
                hidden = one.hidden(own, batch)
            found.append((outputs["decoder"], hidden, own["decoder"]["final_norm"]["scale"]))
        with_hidden = objective.taught_loss(Teacher(deep, theirs), model, params, batch)
        return found, with_hidden, OBJECTIVE.taught_loss(Teacher(deep, theirs), model, params, batch)

    found, with_hidden, without = computed(params)
    for outputs, hidden, scale in found:  # the last layer's output becomes the hidden states
        last = outputs[-1]
        normed = last / np.sqrt(np.mean(np.square(last), axis=-1, keepdims=True) + model.config.decoder.norm_epsilon)
        np.testing.assert_allclose(normed * scale, hidden, rtol=1e-3, atol=1e-3)
    own, taught_by, cut = (outputs for outputs, _, _ in found)
    assert (own.shape[0], taught_by.shape[0]) == (2, 5)
    np.testing.assert_allclose(cut[1], taught_by[1], rtol=1e-4, atol=1e-4)

    real = np.asarray(batch.decoder.segments) > 0
    pairs = [(own[0], taught_by[1]), (own[1], taught_by[4])]
    cosines = [np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1) for a, b in pairs]
    distance = np.mean([np.mean(1 - cosine[real]) for cosine in cosines])
    total, weight = with_hidden.extra["hidden_distance"]
    np.testing.assert_allclose(total / weight, distance, rtol=1e-4)
    added = 2.0 * distance * np.sum(batch.weights)
    np.testing.assert_allclose(with_hidden.objective - without.objective, added, rtol=1e-3)


def test_hidden_states_of_another_width_are_projected():
    (plain, params), teacher = pair("gpt")
    objective = replace(OBJECTIVE, hidden_weight=2.0)
    model = objective.extended(plain, teacher.model)
    assert objective.extended(teacher.model, teacher.model) is teacher.model
    assert model.specs["projection"]["decoder"]["kernel"].shape == (16, 24)
    kernel = jax.random.normal(jax.random.key(1), (16, 24))
    batch = batch_of(plain)

    @quick_jit
    def computed(kernel):
        found = []
        for one, own in ((plain, params), (teacher.model, teacher.params)):
            with recorded() as outputs:
                one.hidden(own, batch)
            found.append(outputs["decoder"])

        def loss(kernel):
            both = params | {"projection": {"decoder": {"kernel": kernel}}}
            sums = objective.taught_loss(teacher, model, both, batch)
            return sums.objective, sums.extra["hidden_distance"]

        return found, jax.value_and_grad(loss, has_aux=True)(kernel)

    (own, theirs), ((_, (total, weight)), gradient) = computed(kernel)
    real = np.asarray(batch.decoder.segments) > 0
    pairs = [(own[0] @ kernel, theirs[0]), (own[1] @ kernel, theirs[2])]  # two layers and three
    cosines = [np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1) for a, b in pairs]
    np.testing.assert_allclose(total / weight, np.mean([np.mean(1 - cosine[real]) for cosine in cosines]), rtol=1e-4)
    assert float(jnp.abs(gradient).max()) > 0


def test_layers_that_cannot_be_compared_are_refused():
    small, deep = config("gpt"), config("gpt", num_layers=4)
    for layers, wrong in (((1, 4), r"teacher has no layer 4. Nearest: 3"), ((1,), r"the student has 2 layers")):
        with pytest.raises(UserError, match=wrong):
            replace(OBJECTIVE, hidden_weight=1.0, teacher_layers=layers).check_teacher(small, deep)
    with pytest.raises(UserError, match=r"teacher_layers is set .*Nearest: 1.0"):
        replace(OBJECTIVE, teacher_layers=(1, 3)).check_teacher(small, deep)


DATA = Data(task="reverse_words", inputs_length=16, targets_length=8, batch_size=8, shards=2)
STUDENT = Experiment(model=config("gpt", vocab_size=384), data=DATA, optimizer=AdamW(schedule=Constant(peak=1e-2)))


@pytest.fixture(scope="module")
def record_of(tmp_path_factory):
    """Return a function: a model -> the directory of a run of it, without checkpoints."""

    def make(model, **changes):
        directory = tmp_path_factory.mktemp("teacher")
        experiment = replace(STUDENT, model=model, **changes)
        open_run(directory, RunRecord(recipe="tiny", experiment=experiment, vocabulary=Bytes()))
        return str(directory)

    return make


def student(directory, **changes):
    return replace(STUDENT, objective=replace(OBJECTIVE, teacher=directory), **changes)


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        (config("t5", vocab_size=384), r"teacher .*kind 'encoder_decoder' .*student is of kind 'decoder'"),
        (config("gpt", vocab_size=512), r"vocab_size 384 .*not the 512 of the teacher.*Nearest: 512"),
        (config("gpt", vocab_size=384, num_layers=3), None),
    ],
)
def test_teachers_of_other_models_are_refused(record_of, model, wrong):
    experiment = student(record_of(model))
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    if wrong is None:
        program = Program.of(experiment, mesh)
        assert program.teacher is not None
        assert program.abstract_state().stored.teacher is None
        return
    with pytest.raises(UserError, match=wrong):
        Program.of(experiment, mesh)


def test_what_is_no_teacher_is_refused(record_of, tmp_path):
    with pytest.raises(UserError, match=r"objective.teacher is None .*Nearest: the directory of a run"):
        check(replace(STUDENT, objective=Distillation()), 1)
    with pytest.raises(UserError, match=r"'labels'.*Nearest: CrossEntropy"):
        Distillation(teacher="some").check(config("bert", head="labels", labels=("good", "long")))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"a model of transformers, not a run. Nearest: the run that t2t import"):
        Program.of(student(str(tmp_path)), MeshConfig(data=1).build(jax.devices()[:1]))
    with pytest.raises(UserError, match=r"another vocabulary than task 'reverse_words'"):
        check_vocabulary(student(record_of(STUDENT.model)), Bytes(extra_ids=7))


@pytest.mark.slow  # three programs
def test_the_step_returns_the_teacher_and_microbatches_change_nothing(record_of):
    directory = record_of(config("gpt", vocab_size=384, num_layers=3, num_heads=8))
    batches, states = packed_batch("decoder"), []
    for mesh, parts in (
        (MeshConfig(data=2, fsdp=2, tensor=2), 1),
        (MeshConfig(data=4, fsdp=2), 1),
        (MeshConfig(data=1), 2),
    ):
        experiment = student(directory, mesh=mesh, microbatches=parts, model=config("gpt", vocab_size=384, num_heads=8))
        program = Program.of(experiment, mesh.build(jax.devices()[: 1 if mesh.data == 1 else 8]))
        state = program.create(0)
        before = jax.device_get(state.teacher)
        placed = jax.tree.map(lambda x, p=program: jax.device_put(jnp.asarray(x), p.batch_sharding()), batches)
        state, metrics = program.step()(state, placed)
        assert_same(jax.device_get(state.teacher), before)
        assert float(metrics["divergence"]) > 0
        states.append(jax.device_get(state.params))
    for other in states[1:]:
        assert_same(other, states[0], rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "teacher"
    run(directory, replace(RUN, steps=2, seed=5))
    return directory


@pytest.mark.slow
def test_a_resumed_student_is_an_uninterrupted_one_and_its_checkpoints_have_no_teacher(teacher_run, tmp_path):
    experiment = replace(distilled_of(str(teacher_run)), steps=4)
    experiment = replace(experiment, data=RUN.data)
    run(tmp_path / "whole", experiment)
    run(tmp_path / "halves", replace(experiment, steps=2))
    moved = teacher_run.rename(tmp_path / "moved")
    try:
        run(tmp_path / "halves", replace(experiment, objective=replace(experiment.objective, teacher=str(moved))))
    finally:
        moved.rename(teacher_run)
    assert_same(SavedRun.load(tmp_path / "whole").params(), SavedRun.load(tmp_path / "halves").params())
    source = json.loads((tmp_path / "whole" / TEACHER).read_text())
    assert (source["run"], source["step"]) == (str(teacher_run.resolve()), 2)
    assert not list((tmp_path / "whole" / "checkpoints" / "4").glob("*teacher*"))
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert all("divergence" in json.loads(line) for line in lines if '"loss"' in line)


@pytest.mark.slow
def test_a_projection_is_trained_and_resumed_and_is_not_part_of_the_model(teacher_run, tmp_path):
    width = 2 * RUN.model.encoder.d_model
    stacks = {side: replace(getattr(RUN.model, side), d_model=width) for side in ("encoder", "decoder")}
    objective = Distillation(teacher=str(teacher_run), hidden_weight=1.0)
    experiment = replace(RUN, steps=4, model=replace(RUN.model, **stacks), objective=objective)
    experiment = replace(experiment, trainable=Trainable(exclude=("encoder/**",)))
    run(tmp_path / "whole", experiment)
    run(tmp_path / "halves", replace(experiment, steps=2))
    run(tmp_path / "halves", experiment)
    read = [SavedRun.load(tmp_path / "whole", step) for step in (2, 4)]
    kernels = []
    for saved in read:
        with Checkpoints(saved.directory / "checkpoints") as checkpoints:
            kernels.append(checkpoints.restore_params(saved.step)["projection"])
    with Checkpoints(tmp_path / "halves" / "checkpoints") as checkpoints:
        assert_same(checkpoints.restore_params(4)["projection"], kernels[1])
    for side in ("encoder", "decoder"):  # also that of the frozen encoder
        assert float(jnp.abs(kernels[1][side]["kernel"] - kernels[0][side]["kernel"]).max()) > 0
    assert "projection" not in read[1].params()
    assert_same(read[1].params(), SavedRun.load(tmp_path / "halves").params())
    run(tmp_path / "next", replace(RUN, model=experiment.model, start_from=StartFrom(run=str(tmp_path / "whole"))))


@pytest.mark.slow
def test_a_teacher_that_has_changed_is_refused(teacher_run, tmp_path):
    experiment = replace(distilled_of(str(teacher_run)), steps=2, data=RUN.data)
    run(tmp_path / "run", experiment)
    file = tmp_path / "run" / TEACHER
    source = json.loads(file.read_text())
    file.write_text(json.dumps({**source, "checksum": "0" * 64}))
    with pytest.raises(UserError, match=r"has changed since the training started.*teacher.json"):
        run(tmp_path / "run", replace(experiment, steps=4))
    file.unlink()
    with pytest.raises(UserError, match=r"teacher.json is missing"):
        run(tmp_path / "run", replace(experiment, steps=4))

"""What PEFT computes with its adapters, without it: logits, adapters written and read again, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t2t.adapters import Adapter, is_of_adapter
from t2t.api.importing import import_checkpoint
from t2t.api.peft import export_adapter
from t2t.data.config import Data
from t2t.errors import UserError
from t2t.export.directory import flatten, unflatten
from t2t.export.huggingface import opened
from t2t.export.peft import read_adapter, write_adapter
from t2t.models.families import exportable, family_of
from t2t.optim import AdamW
from t2t.optim.paths import flatten_specs
from t2t.sharding import MeshConfig
from t2t.train.experiment import Experiment
from t2t.train.run import SavedRun
from t2t.vocabularies import Bytes
from tests.interop import goldens, ours
from tests.interop.adapters import ADAPTED, FOLDER, Adapted, write_directory
from tests.interop.cases import inputs
from tests.models.tiny import quick_jit

BY_NAME = {adapted.name: adapted for adapted in ADAPTED}
QUICK = ("t5", "llama", "gpt-2", "dora-gpt-2", "ia3-gpt-2", "prompt-gpt-2")
"""The adapters of `make test`. The others are for `make test PYTEST="-m slow"`."""


def own(base: Path, directory: Path):
    """Return our model with an adapter of PEFT, its parameters, the adapter and the tensors of the model."""
    with opened(base, family_of) as source:
        read = read_adapter(directory, source.wanted, prefix=source.family.prefix)
        params = {**flatten(source.params(MeshConfig().build())), **read.params}
        return read.adapter.applied(source.model), unflatten(params), read.adapter, source.wanted


def export(adapter: Adapter, model, params, wanted, out: Path) -> None:
    """Write the adapter of a model."""
    trained = [path for path, spec in flatten_specs(model.specs).items() if spec.trainable and not is_of_adapter(path)]
    write_adapter(params, adapter, trained, wanted, out, kind=model.config.kind, architecture="Model")


def with_random_values(model, params):
    """Return the model, and parameters with other values of the adapter: the layers of ours that are one of theirs have no matrix in common."""
    random = np.random.default_rng(3)
    flat = {
        path: jnp.asarray(0.2 * random.normal(size=leaf.shape), jnp.float32) if is_of_adapter(path) else leaf
        for path, leaf in flatten(params).items()
    }
    return model, unflatten(flat)


def assert_same(back, model, params) -> None:
    """Check that an adapter that was read computes the same as ours: kernels with merged adapters, or virtual tokens, are equal."""
    if back[2].virtual_tokens is not None:
        jax.tree.map(np.testing.assert_array_equal, back[1], params)
        return
    merged = flatten(back[0].merged(back[1]))
    for path, value in flatten(model.merged(params)).items():
        np.testing.assert_allclose(merged[path], value, atol=1e-6, err_msg=path)


def logits_of(adapted: Adapted, model, params):
    case, given = adapted.case, inputs(adapted.case)
    return ours.real(case, given, ours.logits(case, model, params, given, quick_jit))


def test_there_is_a_golden_for_each_adapter():
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(BY_NAME)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BY_NAME]
)
def test_logits_are_those_of_peft_and_what_is_written_is_read_again(name, tmp_path):
    adapted = BY_NAME[name]
    goldens.write_directory(adapted.case, tmp_path / "base")
    found = write_directory(adapted, tmp_path / "peft")
    model, params, adapter, wanted = own(tmp_path / "base", tmp_path / "peft")
    logits = logits_of(adapted, model, params)
    np.testing.assert_allclose(goldens.kept(adapted.case, logits), found["logits"], atol=1e-4)

    export(adapter, model, params, wanted, tmp_path / "out")
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert written.keys() == found["tensors"].keys()
    for one, values in ((model, params), with_random_values(model, params)):
        export(adapter, one, values, wanted, tmp_path / "again")
        assert_same(own(tmp_path / "base", tmp_path / "again"), one, values)
        for file in (tmp_path / "again").iterdir():
            file.unlink()


def test_a_part_of_a_layer_of_theirs_may_have_an_adapter(tmp_path):
    """GPT-2 computes queries, keys and values at once: here only the queries and the values have an adapter."""
    adapted = BY_NAME["gpt-2"]
    goldens.write_directory(adapted.case, tmp_path / "base")
    adapter = Adapter(rank=2, alpha=4.0)
    with opened(tmp_path / "base", family_of) as source:
        model, wanted, base = adapter.applied(source.model), source.wanted, source.params(MeshConfig().build())
    specs = flatten(model.specs)
    params = {path: jnp.zeros(spec.shape) for path, spec in specs.items()} | flatten(base)
    model, params = with_random_values(model, unflatten(params))
    export(adapter, model, params, wanted, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert tensors["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"].shape == (4, 32)
    options = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert set(options["rank_pattern"].values()) == {4}
    assert set(options["alpha_pattern"].values()) == {8.0}
    assert_same(own(tmp_path / "base", tmp_path / "out"), model, params)


def changed(directory: Path, change) -> None:
    tensors = load_file(directory / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, directory / "adapter_model.safetensors")


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"peft_type": "VERA"}, None, r"peft_type is 'VERA'.*only"),
        ({"bias": "all"}, None, r"bias is 'all': trained biases are not supported"),
        ({"init_lora_weights": "pissa"}, None, r"init_lora_weights is 'pissa'.*changes the weights"),
        ({"layer_replication": [[0, 2]]}, None, r"unknown option layer_replication"),
        ({"r": 8}, None, r"has rank 4, but .*adapter_config.json says 8"),
        ({}, lambda t: t.pop(A), r"q_proj.lora_A.weight is missing"),
        ({}, lambda t: t.update({A: np.ones((4, 3), np.float32)}), r"has shape \(4, 3\); the base model expects \(4, 32\)"),
        ({}, lambda t: t.update({A: t[A] * np.nan}), r"q_proj.lora_A.weight has values that are not finite"),
        ({}, lambda t: t.update({A.replace("q_proj", "p_proj"): t[A]}), r"no linear layer .*p_proj .*Nearest: .*q_proj"),
        ({}, lambda t: t.update({A.replace("lora_A", "lora_embedding_A"): t[A]}), r"lora_embedding_A.* is not expected: use_dora is False"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(options, change, message, tmp_path):
    adapted = BY_NAME["llama"]
    goldens.write_directory(adapted.case, tmp_path / "base")
    write_directory(adapted, tmp_path / "peft", **options)
    if change is not None:
        changed(tmp_path / "peft", change)
    with pytest.raises(UserError, match=message) as raised:
        own(tmp_path / "base", tmp_path / "peft")
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run of the LLaMA of the cases, at step 0."""
    from t2t.api.importing import parameters_alone
    from t2t.checkpoint import Checkpoints
    from t2t.train.run import CHECKPOINTS, RunRecord, open_run

    folder = tmp_path_factory.mktemp("runs")
    goldens.write_directory(BY_NAME["llama"].case, folder / "theirs")
    with opened(folder / "theirs", family_of) as source:
        experiment = Experiment(model=source.config, data=Data(task="none"), optimizer=AdamW())
        open_run(folder / "base", RunRecord(recipe="test", experiment=experiment, vocabulary=Bytes(extra_ids=0)))
        with Checkpoints(folder / "base" / CHECKPOINTS) as checkpoints:
            checkpoints.save(0, parameters_alone(source.params(MeshConfig().build())), {}, {})
    return folder / "base"


@pytest.mark.parametrize("storage", ["copy", "reference"])
def test_a_run_of_an_adapter(storage, base, tmp_path):
    adapted = BY_NAME["llama"]
    write_directory(adapted, tmp_path / "peft")
    import_checkpoint(str(tmp_path / "peft"), str(tmp_path / "run"), base=str(base), frozen_storage=storage)
    run = SavedRun.load(tmp_path / "run")
    params = run.params()
    model_alone = SavedRun.load(base)
    read = read_adapter(tmp_path / "peft", exportable(model_alone.experiment.model)[2], prefix="model.")
    wanted = read.adapter.applied(model_alone.model).merged(unflatten({**flatten(model_alone.params()), **read.params}))
    jax.tree.map(np.testing.assert_array_equal, run.model.merged(params), wanted)
    files = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert files == {"0", "frozen" if storage == "copy" else "frozen.json"}
    export_adapter(run, None, tmp_path / "out", overwrite=False)
    import_checkpoint(str(tmp_path / "out"), str(tmp_path / "back"), base=str(base))
    back = SavedRun.load(tmp_path / "back")
    assert_same((back.model, back.params(), back.experiment.adapter), run.model, params)
    with pytest.raises(UserError, match=r"--base\) has an adapter itself"):
        import_checkpoint(str(tmp_path / "peft"), str(tmp_path / "more"), base=str(tmp_path / "run"))


def test_tables_that_peft_saves_with_an_adapter_are_those_of_the_base(base, tmp_path):
    """If token embeddings or the head have an adapter, PEFT also saves their frozen parameters."""
    write_directory(BY_NAME["llama-embeddings"], tmp_path / "peft")
    params = flatten(SavedRun.load(base).params())
    tables = {"model.embed_tokens": params["embeddings/token/table"], "lm_head": params["lm_head/kernel"].T}
    saved = {f"base_model.model.{name}.base_layer.weight": np.array(table) for name, table in tables.items()}
    changed(tmp_path / "peft", lambda tensors: tensors.update(saved))
    said: list[str] = []
    import_checkpoint(str(tmp_path / "peft"), str(tmp_path / "run"), base=str(base), say=said.append)
    assert any("lora_dropout 0.1 is left out in further training: " in line for line in said)
    saved["base_model.model.lm_head.base_layer.weight"][3, 4] += 1
    changed(tmp_path / "peft", lambda tensors: tensors.update(saved))
    with pytest.raises(UserError, match=r"trained beside another lm_head/kernel than that of .*\(--base\)"):
        import_checkpoint(str(tmp_path / "peft"), str(tmp_path / "other"), base=str(base))
    assert not (tmp_path / "other").exists()


def test_an_adapter_of_a_shared_table_is_refused(tmp_path):
    """PEFT accepts the module `shared` of T5, but an adapter there has no effect: the stacks read the parameter with modules of their own."""
    adapted = BY_NAME["t5"]
    goldens.write_directory(adapted.case, tmp_path / "base")
    write_directory(adapted, tmp_path / "peft", target_modules=["shared"])
    name = "base_model.model.shared.lora_embedding_A"
    changed(tmp_path / "peft", lambda tensors: tensors.update({name: np.ones((4, 8), np.float32)}))
    with pytest.raises(UserError, match=r"no linear layer or token embeddings shared for an adapter"):
        own(tmp_path / "base", tmp_path / "peft")
    with opened(tmp_path / "base", family_of) as source:
        adapter = Adapter(rank=2, targets=("embeddings/token",))
        model, wanted, params = adapter.applied(source.model), source.wanted, source.params(MeshConfig().build())
    zeros = {path: jnp.zeros(spec.shape) for path, spec in flatten(model.specs).items()}
    with pytest.raises(UserError, match=r"--format peft: PEFT cannot have the adapter of embeddings/token"):
        export(adapter, model, unflatten({**zeros, **flatten(params)}), wanted, tmp_path / "out")


def test_an_adapter_needs_the_run_of_its_model(base, tmp_path):
    write_directory(BY_NAME["llama"], tmp_path / "peft")
    with pytest.raises(UserError, match=r"is an adapter of PEFT; name the run of its base model \(--base RUN\)"):
        import_checkpoint(str(tmp_path / "peft"), str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"--format peft: .*has no adapter"):
        export_adapter(SavedRun.load(base), None, tmp_path / "out", overwrite=False)
    write_directory(BY_NAME["t5"], tmp_path / "t5")
    with pytest.raises(UserError, match=r"has no linear layer"):
        import_checkpoint(str(tmp_path / "t5"), str(tmp_path / "run"), base=str(base))

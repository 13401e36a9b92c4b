"""Recipes of presets beside what their papers tell. The numbers here are the papers' own, in tokens; recipes count rows and steps."""

import pytest

from t2t import models
from t2t.api.published import PUBLISHED
from t2t.api.recipes import find, recipes
from t2t.errors import UserError

GPT3 = {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "decay": 0.1, "clip": 1.0, "final": 0.1, "rise": 0.375e9, "total": 300e9}
LLAMA = {"b1": 0.9, "b2": 0.95, "eps": 1e-5, "decay": 0.1, "clip": 1.0}
BERT = {"b1": 0.9, "b2": 0.999, "eps": 1e-6, "decay": 0.01, "clip": 1.0, "final": 0.0, "warmup": 10_000}
MODERNBERT = {
    "length": 1024, "b1": 0.9, "b2": 0.98, "eps": 1e-6, "clip": None, "final": 0.0, "fallen": 50e9, "shape": "sqrt",
    "task": "c4_masked_lm_30",
}  # fmt: skip
T5 = {"batch": 2**16, "peak": 1e-2, "warmup": 10_000, "steps": 2**19, "length": 512}

# batch, first (batch), grown (until the batch is whole), rise (of the learning rate), end (of its fall), fallen (in it) and total are tokens; warmup and steps are steps; fall is the share of the steps of the last fall.
PAPERS = {
    # Radford et al. 2018, section 4.1
    "gpt:1": {"length": 512, "batch": 64 * 512, "peak": 2.5e-4, "warmup": 2_000, "final": 0.0, "decay": 0.01},
    # Radford et al. 2019, section 2.3
    "gpt:2-small": {"length": 1024, "batch": 512 * 1024},
    "gpt:2-medium": {"length": 1024, "batch": 512 * 1024},
    "gpt:2-large": {"length": 1024, "batch": 512 * 1024},
    "gpt:2-xl": {"length": 1024, "batch": 512 * 1024},
    # Brown et al. 2020, table 2.1 and appendix B
    "gpt:3-125m": {"length": 2048, "batch": 0.5e6, "peak": 6.0e-4, "end": 260e9, **GPT3},
    "gpt:3-350m": {"length": 2048, "batch": 0.5e6, "peak": 3.0e-4, "end": 260e9, **GPT3},
    "gpt:3-760m": {"length": 2048, "batch": 0.5e6, "peak": 2.5e-4, "end": 260e9, **GPT3},
    "gpt:3-1.3b": {"length": 2048, "batch": 1e6, "peak": 2.0e-4, "end": 260e9, **GPT3},
    "gpt:3-2.7b": {"length": 2048, "batch": 1e6, "peak": 1.6e-4, "end": 260e9, **GPT3},
    "gpt:3-6.7b": {"length": 2048, "batch": 2e6, "peak": 1.2e-4, "end": 260e9, **GPT3},
    "gpt:3-13b": {"length": 2048, "batch": 2e6, "peak": 1.0e-4, "end": 260e9, **GPT3},
    "gpt:3-175b": {"length": 2048, "batch": 3.2e6, "peak": 0.6e-4, "end": 260e9, **GPT3},
    # Touvron et al. 2023 (LLaMA 2), section 2.2 and table 1
    "llama:2-7b": {
        **LLAMA, "length": 4096, "batch": 4e6, "peak": 3.0e-4, "warmup": 2_000, "final": 0.1, "total": 2e12, "end": 2e12
    },
    # Grattafiori et al. 2024, table 3 and section 3.4.1
    "llama:3-8b": {"length": 8192, "peak": 3.0e-4, "warmup": 8_000, "final": 0.01, "total": 15.6e12},
    "llama:3-70b": {"length": 8192, "peak": 1.5e-4, "warmup": 8_000, "final": 0.01, "total": 15.6e12},
    # Jiang et al. 2023, table 1
    "llama:mistral-7b": {"length": 8192},
    # Allal et al. 2025
    "llama:smollm2-135m": {"length": 2048, "peak": 3.0e-3, "warmup": 2_000, "final": 0.0, "fall": 0.2, "total": 2e12},
    "llama:smollm2-360m": {"length": 2048, "peak": 3.0e-3, "warmup": 2_000, "final": 0.0, "fall": 0.2, "total": 4e12},
    "llama:smollm2-1.7b": {
        "length": 2048, "batch": 2e6, "peak": 5.0e-4, "warmup": 2_000, "final": 0.0, "fall": 0.1, "total": 11e12
    },
    # Devlin et al. 2019, appendix A.2; the released code
    "bert:base": {"length": 512, "batch": 256 * 512, "peak": 1e-4, "steps": 1_000_000, **BERT},
    "bert:large": {"length": 512, "batch": 256 * 512, "peak": 1e-4, "steps": 1_000_000, **BERT},
    # Warner et al. 2024, section 2.2.2, appendix A.1 and A.3, table 3; the decay of the last phase follows the first one
    "modernbert:base": {
        **MODERNBERT, "batch": 4608 * 1024, "peak": 8e-4, "rise": 3e9, "total": 1.719e12 + 50e9, "decay": 1e-5 / 8e-4,
        "first": 768 * 1024, "grown": 50e9
    },
    "modernbert:large": {
        **MODERNBERT, "batch": 4928 * 1024, "peak": 5e-4, "rise": 2e9, "total": 1.7e12 + 50e9, "decay": 1e-5 / 5e-4,
        "first": 448 * 1024, "grown": 10e9
    },
    # Le Breton et al. 2025, section 3, and the released code
    "neobert:250m": {
        "length": 1024, "batch": 2e6, "peak": 6e-4, "warmup": 2_000, "end": 900_000 * 2**21, "final": 0.1, "steps": 1_000_000,
        "b1": 0.9, "b2": 0.95, "eps": 1e-8, "decay": 0.1, "clip": 1.0, "task": "c4_masked_lm_20",
    },
    # Lewis et al. 2020, sections 4.1 and 5.1
    "bart:base": {"steps": 1_000_000, "task": "c4_bart"},
    "bart:large": {"batch": 8000 * 512, "steps": 500_000, "task": "c4_bart"},
    # Clark et al. 2020, table 6; the released code
    "electra:small": {"length": 128, "batch": 128 * 128, "peak": 5e-4, "steps": 1_000_000, **BERT},
    "electra:base": {"length": 512, "batch": 256 * 512, "peak": 2e-4, "steps": 766_000, **BERT},
    "electra:large": {"length": 512, "batch": 2048 * 512, "peak": 2e-4, "steps": 400_000, **BERT},
    # Raffel et al. 2020, section 3.1.2, the baseline
    **{f"t5:1.0-{size}": T5 for size in ("small", "base", "large", "3b", "11b")},
    **{f"t5:1.1-{size}": T5 for size in ("small", "base", "large", "xl", "xxl")},
}  # fmt: skip


def settings(name):
    """Return a recipe's values by the names above."""
    experiment = recipes()[name]()
    data, optimizer, schedule = experiment.data, experiment.optimizer, experiment.optimizer.schedule
    length = data.inputs_length + (data.targets_length if experiment.model.kind == "decoder" else 0)
    batch, ramp = data.batch_size * length, data.ramp
    values = {
        "length": length,
        "batch": batch,
        "steps": experiment.steps,
        "total": ramp.up_to(experiment.steps) * length,
        "first": ramp.rows[0] * length,
        "grown": ramp.up_to(ramp.starts[-1]) * length,
        "task": data.task,
        "peak": schedule.peak,
        "warmup": schedule.warmup,
        "rise": ramp.up_to(schedule.warmup) * length,
        "fallen": batch * getattr(schedule, "decay_steps", 0),
        "shape": getattr(schedule, "shape", None),
        "end": batch * getattr(schedule, "steps", 0),
        "final": getattr(schedule, "final", None),
        "fall": getattr(schedule, "decay_steps", 0) / experiment.steps,
        "decay": optimizer.weight_decay,
        "clip": optimizer.clip_norm,
    }
    return values | {name: getattr(optimizer, name, None) for name in ("b1", "b2", "eps")}


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_has_its_papers_settings(name):
    found = settings(name)
    # "0.5 million tokens" is 524,288: what is counted in tokens is rounded to powers of two.
    rounded = {"batch": 0.05, "total": 0.001, "end": 0.001, "rise": 0.005, "grown": 0.001, "fallen": 0.001}
    for key, told in PAPERS[name].items():
        number = isinstance(told, int | float)
        assert found[key] == (pytest.approx(told, rel=rounded.get(key, 1e-6), abs=0) if number else told), key


def test_every_recipe_has_its_preset_and_no_paper_is_forgotten():
    assert set(PUBLISHED) == set(PAPERS) <= set(models.presets())


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_tells_its_source_and_what_is_our_choice(name):
    text = recipes()[name].__doc__
    assert name in text
    assert f"Source: {PUBLISHED[name].source}" in text
    assert f"Our choice: {PUBLISHED[name].ours}" in text
    assert " et al. 20" in PUBLISHED[name].source


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_the_models_are_the_presets_and_take_rows_of_that_length(name):
    experiment, preset = recipes()[name](), models.preset(name)
    assert type(experiment.model) is type(preset)
    limit = preset.max_length
    assert limit is None or PUBLISHED[name].length <= limit
    assert experiment.data.batch_size % experiment.data.shards == 0
    if models.count(preset) >= 1_000_000_000 and PUBLISHED[name].length >= 2048:
        assert experiment.model.attention == "chunked"  # whole, rows of 8,192 take gigabytes a layer


def test_schedules_of_recipes_end_no_later_than_their_training():
    for name, published in PUBLISHED.items():
        schedule = published.optimizer.schedule
        assert getattr(schedule, "steps", 0) <= published.steps, name


@pytest.mark.parametrize(
    ("preset", "task", "length"),
    [
        ("mamba:2-130m", "c4_causal_lm", 4096),
        ("switch:base-8", "c4_span_corruption", 512),
        ("deberta:v3-small", "c4_masked_lm", 512),
    ],
)
def test_a_preset_without_published_settings_can_be_planned_and_says_so(preset, task, length, capsys):
    with pytest.raises(UserError, match=f"preset {preset} has no recipe: its training settings are not published"):
        find(preset)
    experiment = find(preset, assume=True)()
    assert experiment.data.task == task
    # A decoder has one token of the row as input.
    assert max(experiment.data.inputs_length, experiment.data.targets_length + 1) in (length, length + 1)
    told = capsys.readouterr().err
    assert told.startswith(f"{preset}: its training settings are not published. Assumed: {task} in 256 rows")


def test_a_preset_with_published_settings_assumes_none(capsys):
    assert find("t5:1.1-small", assume=True)() == find("t5:1.1-small")()
    assert capsys.readouterr().err == ""

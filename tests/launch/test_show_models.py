"""The list of presets and a preset's parameters, on a terminal and in a pipe."""

import io
import re

import pytest
from rich.console import Console

from t2t import models
from t2t.errors import UserError
from t2t.launch import show_models


def rows(text):
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]


@pytest.fixture
def terminal(monkeypatch):
    def of_width(width):
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, color_system=None, width=width, highlight=False, markup=False)
        monkeypatch.setattr(show_models, "console", lambda: console)
        return out

    return of_width


def test_every_preset_is_listed_with_its_count(capsys):
    show_models.models()
    listed = {row[0]: row for row in rows(capsys.readouterr().out)}
    assert set(models.presets()) <= set(listed)
    assert listed["t5:1.0-small"] == [
        "t5:1.0-small",
        "encoder-decoder",
        "60,506,624",
        "60,506,624",
        "6+6",
        "512",
        "8",
        "2,048",
        "32,128",
        "any",
    ]
    assert listed["gpt:3-175b"][1:6] == ["decoder", "174,604,259,328", "~174.6B", "96", "12,288"]
    assert listed["bert:base"][3].endswith("*")


def test_the_list_fits_a_narrow_terminal_with_every_number_whole(terminal):
    out = terminal(80)
    show_models.models(filter="GPT:3")
    lines = out.getvalue().splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert "gpt:3-175b" in out.getvalue()
    assert "174,604,259,328" in out.getvalue()
    assert "t5" not in out.getvalue().split("t2t models")[0]


def test_a_presets_parameters_add_up(capsys):
    show_models.models("bert:base")
    text = capsys.readouterr().out
    table = [row for row in rows(text) if len(row) == 5][1:]
    assert sum(int(row[4].replace(",", "")) for row in table) == models.count(models.preset("bert:base"))
    assert ["embeddings/token/table", "30522x768", "vocab,embed", "yes", "23,440,896"] in table
    assert "109,514,298 parameters in" in text
    assert "Published: 109,482,240" in text
    assert "-590,592: without the pooler" in text
    assert "differs" not in text


def test_a_count_that_is_not_the_published_one_is_told(capsys, monkeypatch):
    preset = models.Preset(config=models.presets()["gpt:1"].config, published=100, source="nowhere")
    monkeypatch.setattr(models, "presets", lambda: {"gpt:1": preset})
    show_models.models("gpt:1")
    assert "differs from the published number by +116,534,684" in capsys.readouterr().out


def test_on_a_terminal_paths_are_grouped_and_no_parameter_is_lost(terminal):
    out = terminal(100)
    show_models.models("t5:1.1-small")
    group, paths = "", set()
    for line in out.getvalue().splitlines():
        name = line.split()[0] if line.strip() else ""
        if line.startswith("  "):
            paths.add(f"{group}/{name}")
        else:
            group = name
    assert {row.path for row in models.parameter_table(models.preset("t5:1.1-small"))} <= paths


def test_unknown_names(capsys):
    with pytest.raises(UserError, match=r"'t5:1\.1-smal'.* Nearest: t5:1\.1-small"):
        show_models.models("t5:1.1-smal")
    with pytest.raises(UserError, match=r"name contains 'hyena' \(--filter\)"):
        show_models.models(filter="hyena")
    assert capsys.readouterr().out == ""

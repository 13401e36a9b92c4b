"""Every option of every command has a text in --help."""

import dataclasses
import re

import pytest

from t2t.api.recipes import recipes
from t2t.launch import parse
from t2t.launch.experiment import SHORT
from t2t.launch.launch import LAUNCHERS
from t2t.launch.main import COMMANDS, run

OWN_USAGE = {"train", "plan", "bench", "launch"}
"""Commands whose own help is written by hand: their other options are those of what they are given."""


def without_text(shown):
    """Return the options in a help that have no text of their own but for their default."""
    # Panels stand beside each other: each row of a panel is between two bars.
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    bare, option, text = [], None, ""
    for line in [*plain.splitlines(), "--end"]:
        line = line.strip("│╭╰╮╯ ").strip()
        if re.match(r"--?[a-z]", line):
            if option is not None and not re.sub(
                r"\((default|required|repeatable|optional|fixed|sets)[^)]*\)?", "", text
            ).strip(" ─"):
                bare.append(option)
            names, _, text = re.sub(r"\s{2,}", "\t", line).partition("\t")
            option = names.split()[0].rstrip(",")
        else:
            text += f" {line}"
    return bare


@pytest.fixture
def shown(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")  # one panel below the other, and no line too short for the two names of a flag
    monkeypatch.setenv("NO_COLOR", "1")

    def run_help(*words):
        assert run([*words, "--help"]) == 0
        return capsys.readouterr().out

    return run_help


def test_the_reader_of_helps_finds_what_has_no_text():
    shown = "│ --steps INT │\n│    (default: 3) │\n│ --seed INT │\n│  of chance (default: 0) │\n│ --dir STR │\n│ (required) │"
    assert without_text(shown) == ["--steps", "--dir"]


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - OWN_USAGE))
def test_every_option_of_a_command_has_a_text(name, shown):
    text = shown(name)
    assert "usage: t2t" in text
    assert not without_text(text)


@pytest.mark.parametrize(
    "name", ["t5:quickstart", "gpt:quickstart", "bert:quickstart", "electra:quickstart", "t5:1.0-small"]
)
def test_every_option_of_a_recipe_has_a_text(name, shown):
    text = shown("train", name)
    assert "--optimizer.schedule.peak" in text
    assert not without_text(text)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_option_of_a_launcher_has_a_text(name, shown):
    assert not without_text(shown("launch", name))


@pytest.mark.parametrize("name", sorted(OWN_USAGE))
def test_a_command_tells_its_usage_without_a_recipe(name, shown):
    assert f"usage: t2t {name}" in shown(name)


def test_train_without_a_recipe_tells_how_to_list_them_and_the_common_options(shown):
    text = shown("train")
    assert "t2t recipes" in text
    for option in ("--dir", "--steps", "--batch-size", "--seed", "--vocabulary", "--optimizer.schedule.peak"):
        assert option in text


def test_a_recipes_help_has_a_group_for_each_part_and_the_commands_own_options(shown):
    text = shown("train", "t5:quickstart")
    recipe = recipes()["t5:quickstart"]()
    parts = [
        field.name for field in dataclasses.fields(recipe) if dataclasses.is_dataclass(getattr(recipe, field.name))
    ]
    assert {"model", "data", "optimizer", "evaluation"} <= set(parts)
    # A group has its name on a line, and below it what the part is. Boxes are drawn where the output has a UTF-8 encoding.
    lines = [line.strip(" │╭╮─-") for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    named = [
        (line.removesuffix(" options"), lines[i + 1 :]) for i, line in enumerate(lines) if line.endswith(" options")
    ]
    groups = {name: next(line for line in below if line) for name, below in named}
    for part in parts:
        assert not groups[part.replace("_", "-")].startswith("--"), f"{part} is not described"
    own = text.partition("the command's own options:\n")[2].partition("\n\n")[0]
    described = dict(re.findall(r"^  (--\S+)(?: [A-Z]+)?  +(\S.*)$", own, re.M))
    assert {*SHORT, "--dir", "--vocabulary", "--import", "--trust-code", "--data-dir", "--debug"} == set(described)
    assert all(f"short for {SHORT[name]}" in described[name] for name in SHORT)


def test_every_option_of_a_configuration_is_in_its_help(shown):
    text = shown("train", "t5:quickstart")
    names = [name for name, _ in parse.option_names(recipes()["t5:quickstart"]())]
    assert len(names) > 90
    assert not [name for name in names if name not in text]

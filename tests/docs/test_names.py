"""Links between the pages lead somewhere, files and options that they name are there, and the index has every page."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from t2t.api.option_names import option_names
from t2t.api.recipes import find
from t2t.launch.main import run
from t2t.objectives import Contrastive, Distillation, Preference
from t2t.train.experiment import StartFromLayers

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```.*?^\1```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s#]*)(#[^)\s]*)?\)")
SOURCE = re.compile(r"`((?:t2t|models|tasks|launch|tests|benchmarks)/[\w/.-]+\.\w+)`")
PAGES = sorted(
    [*ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md", *(ROOT / f"{n}.md" for n in ("README", "SECURITY"))]
)


def prose(path: Path) -> str:
    """Return a page without its code blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line) for line in re.findall(r"^#+ (.*)$", prose(path), re.M)]
    return {re.sub(r"[^\w\- ]", "", line.strip().lower()).replace(" ", "-") for line in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    broken = []
    for target, anchor in LINK.findall(prose(page)):
        if target.startswith(("http:", "https:")):
            continue
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor[1:] not in anchors(file)):
            broken.append(target + anchor)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page):
    assert [name for name in SOURCE.findall(prose(page)) if not (ROOT / name).is_file()] == []


def test_the_index_has_every_page():
    linked = {target for target, _ in LINK.findall(prose(ROOT / "docs/README.md"))}
    assert {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"} - linked == set()


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Run `t2t eval`, or [stop](x.md)\n\n```sh\n# a comment\n```\n\n## Data (`t2t/data/`)\n")
    assert anchors(page) == {"run-t2t-eval-or-stop", "data-t2tdata"}


@pytest.fixture(scope="module")
def options() -> set[str]:
    """Return the options of `t2t train`, of recipes for every kind of model, and of `t2t grid mixers`."""
    found: set[str] = set()
    for recipe in ("t5", "gpt", "bert", "electra"):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert run(["train", f"{recipe}:quickstart", "--help"]) == 0
        found.update(re.findall(r"--[a-z0-9]+(?:[.-][a-z0-9]+)*", out.getvalue()))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(["grid", "mixers", "--help"]) == 0
    found.update(re.findall(r"--[a-z0-9]+(?:[.-][a-z0-9]+)*", out.getvalue()))
    bert = find("bert:quickstart")()
    for changed in (
        replace(bert, objective=Contrastive()),
        replace(bert, objective=Distillation(), start_from=StartFromLayers()),
        replace(find("gpt:quickstart")(), objective=Preference(reference="run")),
    ):
        found.update(name for name, _ in option_names(changed))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_of_recipes_are_there(page, options):
    named = re.findall(r"(?<![\w-])--[a-z0-9-]+(?:\.[a-z0-9-]*[a-z0-9])+", page.read_text(encoding="utf-8"))
    assert set(named) - options == set()

"""Runs that were trained with their owner's code: what they keep of it, and when it is run."""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from t2t import config, config_classes
from t2t.api.user_code import imports, known_code, run_code
from t2t.errors import UserError
from t2t.launch.main import run
from t2t.train import own_code
from t2t.train.run import RunRecord, open_run, read_record

ROOT = Path(__file__).parents[3]
OWN = """
from dataclasses import dataclass
from pathlib import Path
from t2t.optim import Linear

Path({mark!r}).touch()

@dataclass(frozen=True, kw_only=True)
class Steep(Linear):
    slope: float = 2.0
"""
TINY = (
    "--steps 1 --batch-size 4 --data.shards 2 --log-every 1 --evaluation.split None --data.inputs-length 16 --data.targets-length 16"
    " --optimizer.schedule.steps 1 --optimizer.schedule.warmup 0 --model.encoder.num-layers 1 --model.decoder.num-layers 1"
    " --model.encoder.d-model 16 --model.decoder.d-model 16 --model.encoder.num-heads 2 --model.decoder.num-heads 2 --model.encoder.d-ff 16 --model.decoder.d-ff 16"
)


@pytest.fixture(autouse=True)
def apart(monkeypatch, tmp_path_factory):
    """Each test imports on its own: what it loads is gone behind it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    monkeypatch.setattr(imports, "_known", {})
    monkeypatch.setattr(imports, "_used", {})
    monkeypatch.setattr(config_classes, "_registered", dict(config_classes._registered))
    monkeypatch.setattr(config_classes, "_own", set())
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = set(sys.modules)
    yield
    run_code.trust(False)
    for name in set(sys.modules) - before:
        if name.startswith(("t2t_own", "rc_")):
            del sys.modules[name]


def forget_modules() -> None:
    """Be as another process is: nothing of the user's is imported."""
    for name in [name for name in sys.modules if name.startswith(("t2t_own.", "rc_"))]:
        del sys.modules[name]
    imports._known.clear()
    imports._used.clear()
    config_classes._registered.clear()
    config_classes._own.clear()


def record(directory: Path, template: RunRecord, **more: object) -> Path:
    """Write a run.json that has what `more` says, and what was imported."""
    from dataclasses import replace

    own = imports.own_code()
    changed = replace(template, imports=own.imports, code=own.checksums, **more)
    directory.mkdir()
    (directory / "run.json").write_text(config.dumps(changed), encoding="utf-8")
    own_code.prepare(directory, own.files)
    own_code.adopt(directory)
    return directory


@pytest.fixture(scope="module")
def template() -> RunRecord:
    from t2t.api.recipes import quickstart_t5
    from t2t.vocabularies import Bytes

    return RunRecord(recipe="t5:quickstart", experiment=quickstart_t5(), vocabulary=Bytes())


def steep(template: RunRecord, spec: str, directory: Path) -> Path:
    """Make a run whose schedule is of a class in a file of the user's."""
    from dataclasses import replace

    schedule = imports.load(spec).Steep(peak=0.1, warmup=0, steps=9)
    optimizer = replace(template.experiment.optimizer, schedule=schedule)
    return record(directory, template, experiment=replace(template.experiment, optimizer=optimizer))


def test_a_file_is_kept_under_a_name_without_its_path(tmp_path, template):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "rc_mine.py").write_text(OWN.format(mark=str(tmp_path / "mark")))
    one = steep(template, str(tmp_path / "here/rc_mine.py"), tmp_path / "one")
    forget_modules()
    other = steep(template, str(tmp_path / "there/rc_mine.py"), tmp_path / "other")
    assert (one / "run.json").read_text() == (other / "run.json").read_text()
    stored = json.loads((one / "run.json").read_text())
    assert stored["imports"] == ["rc_mine.py"]
    content = (one / "code/rc_mine.py").read_bytes()
    assert stored["code"] == {"rc_mine.py": hashlib.sha256(content).hexdigest()}
    assert stored["experiment"]["optimizer"]["schedule"]["class"] == "t2t_own.rc_mine.Steep"


def test_files_of_one_name_are_told_apart(tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "rc_same.py").write_text(f"WHERE = {place!r}")
    assert [imports.load(str(tmp_path / place / "rc_same.py")).WHERE for place in "ab"] == ["a", "b"]
    code = imports.own_code()
    assert code.imports == ("rc_same.py", "rc_same_2.py")
    assert code.files == {"rc_same.py": b"WHERE = 'a'", "rc_same_2.py": b"WHERE = 'b'"}


def test_neighbours_and_packages_are_kept_but_nothing_installed(tmp_path, monkeypatch):
    (tmp_path / "rc_pack/deep").mkdir(parents=True)
    (tmp_path / "rc_pack/__init__.py").write_text("from rc_pack import part")
    (tmp_path / "rc_pack/part.py").write_text("import yaml")
    (tmp_path / "rc_pack/deep/later.py").write_text("LATER = 1")
    (tmp_path / "rc_help.py").write_text("HELP = 1")
    (tmp_path / "rc_file.py").write_text("import rc_help, json, numpy")
    installed = tmp_path / "env/lib/site-packages"
    installed.mkdir(parents=True)
    (installed / "rc_installed.py").write_text("")
    (tmp_path / "rc_uses.py").write_text("import rc_installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(installed))
    imports.use(["rc_pack", "rc_file.py", "rc_uses.py", "rc_installed"])
    code = imports.own_code()
    assert code.imports == ("rc_pack", "rc_file.py", "rc_uses.py", "rc_installed")
    assert sorted(code.files) == [
        "modules/rc_help.py",
        "modules/rc_pack/__init__.py",
        "modules/rc_pack/deep/later.py",
        "modules/rc_pack/part.py",
        "rc_file.py",
        "rc_uses.py",
    ]


def test_kept_code_runs_from_the_run_alone(tmp_path, monkeypatch, template, capsys):
    home = tmp_path / "home"
    (home / "rc_pack").mkdir(parents=True)
    (home / "rc_pack/__init__.py").write_text("from rc_pack.part import PART")
    (home / "rc_pack/part.py").write_text("PART = 'part'")
    (home / "rc_mine.py").write_text(
        "import rc_pack\nfrom dataclasses import dataclass\nfrom t2t.optim import Linear\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Steep(Linear):\n    part: str = rc_pack.PART\n"
    )
    monkeypatch.chdir(home)
    directory = steep(template, "rc_mine.py", tmp_path / "run")
    shutil.rmtree(home)
    monkeypatch.chdir(tmp_path)
    forget_modules()
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "home" not in place])
    run_code.trust(True)
    run_code.ready(directory)
    assert read_record(directory).experiment.optimizer.schedule.part == "part"
    err = capsys.readouterr().err
    for path in ("rc_mine.py", "modules/rc_pack/__init__.py", "modules/rc_pack/part.py"):
        content = (directory / "code" / path).read_bytes()
        assert f"code/{path} ({len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()})" in err
    # What is trained from it keeps it too.
    assert imports.own_code().imports == ("rc_mine.py",)
    assert imports.own_code().checksums == read_record(directory).code


def test_code_is_not_run_unasked(tmp_path, template):
    mark = tmp_path / "mark"
    (tmp_path / "rc_mine.py").write_text(OWN.format(mark=str(mark)))
    directory = steep(template, str(tmp_path / "rc_mine.py"), tmp_path / "run")
    content = (directory / "code/rc_mine.py").read_bytes()
    forget_modules()
    mark.unlink()
    with pytest.raises(UserError, match=r"t2t_own\.rc_mine\.Steep.*--trust-code.*--import") as caught:
        run_code.ready(directory)
    assert f"rc_mine.py ({len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()})" in str(caught.value)
    assert not mark.exists()
    # The owner's own copy needs no trust.
    imports.load(str(tmp_path / "rc_mine.py"))
    run_code.ready(directory)
    assert read_record(directory).experiment.optimizer.schedule.slope == 2.0


def test_code_that_was_trained_with_here_needs_no_second_question(tmp_path, template):
    (tmp_path / "rc_mine.py").write_text(OWN.format(mark=str(tmp_path / "mark")))
    directory = steep(template, str(tmp_path / "rc_mine.py"), tmp_path / "run")
    own = imports.own_code()
    known_code.remember(own.imports, own.checksums)
    forget_modules()
    run_code.ready(directory)
    assert read_record(directory).experiment.optimizer.schedule.slope == 2.0


@pytest.mark.parametrize("change", ["content", "another file", "an installed module", "the order"])
def test_known_code_with_any_change_is_asked_for(change, tmp_path, template):
    mark = tmp_path / "mark"
    for name in ("rc_mine", "rc_more"):
        (tmp_path / f"{name}.py").write_text(OWN.format(mark=str(mark)))
    imports.load(str(tmp_path / "rc_more.py"))
    directory = steep(template, str(tmp_path / "rc_mine.py"), tmp_path / "run")
    own = imports.own_code()
    known_code.remember(own.imports, own.checksums)
    stored = json.loads((directory / "run.json").read_text())
    if change in ("content", "another file"):
        name = "rc_mine.py" if change == "content" else "rc_other.py"
        (directory / "code" / name).write_text(OWN.format(mark=str(mark)) + "# changed")
        stored["code"][name] = own_code.checksum((directory / "code" / name).read_bytes())
    stored["imports"] = {"an installed module": [*stored["imports"], "this"], "the order": stored["imports"][::-1]}.get(
        change, stored["imports"]
    )
    (directory / "run.json").write_text(json.dumps(stored))
    forget_modules()
    mark.unlink()
    with pytest.raises(UserError, match="--trust-code"):
        run_code.ready(directory)
    assert not mark.exists()


def test_an_installed_module_is_never_known_code(tmp_path, template):
    (tmp_path / "rc_mine.py").write_text(OWN.format(mark=str(tmp_path / "mark")))
    directory = steep(template, str(tmp_path / "rc_mine.py"), tmp_path / "run")
    stored = json.loads((directory / "run.json").read_text())
    stored["imports"].append("this")
    (directory / "run.json").write_text(json.dumps(stored))
    known_code.remember(stored["imports"], stored["code"])
    forget_modules()
    with pytest.raises(UserError, match="--trust-code"):
        run_code.ready(directory)
    assert "this" not in sys.modules


def test_where_nothing_can_be_noted_code_stays_unknown(tmp_path, monkeypatch):
    (tmp_path / "state").write_text("a file where a directory should be")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    known_code.remember(["a.py"], {"a.py": "0"})
    assert not known_code.is_known(["a.py"], {"a.py": "0"})
    assert not known_code.is_known([], {})


def test_an_older_run_with_code_of_its_own(tmp_path, template):
    """Its imports are paths, its classes have a hash of the path in their names, and it keeps no copy."""
    mark = tmp_path / "mark"
    source = tmp_path / "rc_mine.py"
    source.write_text(OWN.format(mark=str(mark)))
    directory = steep(template, str(source), tmp_path / "run")
    stored = json.loads((directory / "run.json").read_text())
    stored["imports"] = [str(source)]
    del stored["code"]
    name = f"rc_mine_{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
    stored["experiment"]["optimizer"]["schedule"]["class"] = f"{name}.Steep"
    (directory / "run.json").write_text(json.dumps(stored))
    shutil.rmtree(directory / "code")
    forget_modules()
    mark.unlink()
    with pytest.raises(UserError, match=r"--trust-code"):
        run_code.ready(directory)
    assert not mark.exists()
    run_code.trust(True)
    run_code.ready(directory)
    assert mark.exists()
    assert read_record(directory).experiment.optimizer.schedule.slope == 2.0


@pytest.mark.parametrize("change", ["changed", "gone", "link", "outside", "absolute", "no python"])
def test_only_what_was_kept_is_run(change, tmp_path, template):
    mark = tmp_path / "mark"
    (tmp_path / "rc_mine.py").write_text(OWN.format(mark=str(mark)))
    directory = steep(template, str(tmp_path / "rc_mine.py"), tmp_path / "run")
    forget_modules()
    mark.unlink()
    kept = directory / "code/rc_mine.py"
    stored = json.loads((directory / "run.json").read_text())
    if change == "changed":
        kept.write_text(kept.read_text() + "\n")
    elif change in ("gone", "link"):
        kept.unlink()
        if change == "link":
            kept.symlink_to(tmp_path / "rc_mine.py")
    else:
        place = {"outside": "../../rc_mine.py", "absolute": str(tmp_path / "rc_mine.py"), "no python": "rc_mine.txt"}
        stored["code"] = {place[change]: stored["code"]["rc_mine.py"]}
    (directory / "run.json").write_text(json.dumps(stored))
    run_code.trust(True)
    with pytest.raises(UserError, match=r"rc_mine\.(py|txt)") as caught:
        run_code.ready(directory)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_neither_other_files_nor_compiled_ones_are_run(tmp_path, template):
    (tmp_path / "rc_mine.py").write_text(OWN.format(mark=str(tmp_path / "mark")))
    directory = steep(template, str(tmp_path / "rc_mine.py"), tmp_path / "run")
    forget_modules()
    evil = tmp_path / "evil.py"
    evil.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'evil')!r}).touch()\n")
    kept = directory / "code/rc_mine.py"
    for place in ("json.py", "modules/yaml.py", "rc_other.py", "__init__.py"):
        (directory / "code" / place).parent.mkdir(exist_ok=True)
        shutil.copy(evil, directory / "code" / place)
    py_compile.compile(
        str(evil),
        cfile=str(kept.parent / "__pycache__" / f"rc_mine.{sys.implementation.cache_tag}.pyc"),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    run_code.trust(True)
    run_code.ready(directory)
    assert read_record(directory).experiment.optimizer.schedule.slope == 2.0
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("imports_", [["this"], ["rc_stranger.py"], ["no_such_module_here"]])
def test_imports_of_a_record_that_needs_no_code_are_not_looked_at(imports_, tmp_path, template, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rc_stranger.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    directory = record(tmp_path / "run", template)
    stored = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps({**stored, "imports": imports_}))
    run_code.ready(directory)
    assert read_record(directory).imports == tuple(imports_)
    assert not (tmp_path / "ran").exists()
    assert "this" not in sys.modules


def test_names_of_a_strangers_cannot_draw_on_the_terminal(tmp_path, template):
    directory = record(tmp_path / "run", template)
    stored = json.loads((directory / "run.json").read_text())
    stored["experiment"]["objective"]["class"] = "a.\x1b[2KLoss"
    (directory / "run.json").write_text(json.dumps({**stored, "imports": ["\x1b[1Aharmless.py"]}))
    with pytest.raises(UserError, match=r"--trust-code") as caught:
        run_code.ready(directory)
    assert str(caught.value).isprintable()
    assert "x1b[1Aharmless.py" in str(caught.value)


@pytest.mark.parametrize(
    "broken", [{"imports": "mine.py"}, {"imports": [3]}, {"code": ["a"]}, {"code": {"a.py": 3}}, {"imports": None}]
)
def test_a_record_of_another_shape_is_one_line(broken, tmp_path, template):
    directory = record(tmp_path / "run", template)
    stored = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps({**stored, **broken}))
    for trusted in (False, True):
        run_code.trust(trusted)
        with pytest.raises(UserError, match=r"run\.json: (imports|code)"):
            run_code.ready(directory)


def test_a_run_goes_on_with_its_code_elsewhere_or_changed(tmp_path, template):
    from dataclasses import replace

    def opened(content: bytes, recipe: str) -> RunRecord:
        code = own_code.OwnCode(imports=("mine.py",), files={"mine.py": content})
        wanted = replace(template, recipe=recipe, imports=code.imports, code=code.checksums)
        return open_run(tmp_path / "run", wanted, code.files)

    opened(b"A = 1", "mine.py:recipe")
    (tmp_path / "run/metrics.jsonl").write_text("{}\n")
    assert opened(b"A = 2", "/elsewhere/mine.py:recipe").code == {"mine.py": hashlib.sha256(b"A = 2").hexdigest()}
    assert (tmp_path / "run/code/mine.py").read_bytes() == b"A = 2"
    assert read_record(tmp_path / "run").recipe == "/elsewhere/mine.py:recipe"
    assert not (tmp_path / "run/code.partial").exists()
    without = open_run(tmp_path / "run", template)  # nothing imported: what is kept stays
    assert without.imports == ("mine.py",)
    assert (tmp_path / "run/code/mine.py").read_bytes() == b"A = 2"
    own_code.prepare(tmp_path / "run", {})
    own_code.adopt(tmp_path / "run")
    assert not (tmp_path / "run/code").exists()


def test_commands_that_read_no_run_refuse_the_option(capsys):
    assert run(["models", "--trust-code"]) == 2
    assert "t2t models: --trust-code" in capsys.readouterr().err


TASK = """
from t2t import tasks
from t2t.tasks.generated import GeneratedSource, copy_words
tasks.add("rc_own_task", source=GeneratedSource("rc", copy_words, sizes={"train": 100, "validation": 10}), inputs="inputs", targets="targets")
"""


def t2t(*words: str, where: Path) -> subprocess.CompletedProcess[str]:
    flags = os.environ.get("XLA_FLAGS", "").replace("--xla_force_host_platform_device_count=8", "")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "XDG_STATE_HOME": str(where / "state")}
    command = [sys.executable, "-m", "t2t.launch", *words]
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_whole_way_of_a_run_with_its_owners_code(tmp_path):
    """A task, a class and a recipe of one's own: trained, asked, exported, evaluated and continued elsewhere."""
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    (home / "own.py").write_text(
        TASK
        + OWN.format(mark="own-ran")
        + "from dataclasses import replace\nfrom t2t.api.recipes import quickstart_t5\n"
        + "def recipe():\n    e = quickstart_t5()\n    s = Steep(peak=1e-3, warmup=0, steps=1)\n"
        + "    return replace(e, data=replace(e.data, task='rc_own_task'), evaluation=replace(e.evaluation, tasks=('rc_own_task',), examples=4),"
        + " optimizer=replace(e.optimizer, schedule=s))\n"
    )
    done = t2t("train", "own.py:recipe", "--dir", "run", *TINY.split(), where=home)
    assert done.returncode == 0, done.stderr
    shutil.move(home / "run", away / "run")
    mark = away / "own-ran"
    ask = ("infer", "run", "--text", "copy: a b", "--max-length", "4")

    refused = t2t(*ask, where=away)
    assert refused.returncode == 2
    assert refused.stderr.count("error") == 1
    assert "--trust-code" in refused.stderr
    assert not mark.exists()
    for words in (
        (*ask, "--trust-code"),
        (*ask, "--import", str(home / "own.py")),
        ("export", "run", "--format", "safetensors", "--out", "weights", "--trust-code"),
        ("eval", "run", "--split", "validation", "--trust-code"),
        ("train", f"{home}/own.py:recipe", "--dir", "run", *TINY.split(), "--steps", "2"),
        ("train", "from:run", "--dir", "next", "--trust-code", *TINY.split()),
    ):
        done = t2t(*words, where=away)
        assert done.returncode == 0, (words, done.stderr)
        assert mark.exists()
        mark.unlink()
    assert (away / "next/code/own.py").read_text() == (home / "own.py").read_text()


@pytest.mark.slow
def test_a_task_of_ones_own_needs_no_code_to_infer_and_export(tmp_path):
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    (home / "own.py").write_text(TASK + "from pathlib import Path\nPath('own-ran').touch()\n")
    own = ("--data.task", "rc_own_task", "--evaluation.tasks", "rc_own_task")
    done = t2t("train", "t5:quickstart", "--import", "own.py", "--dir", "run", *TINY.split(), *own, where=home)
    assert done.returncode == 0, done.stderr
    shutil.move(home / "run", away / "run")
    (home / "own.py").unlink()
    at_home = t2t("eval", "../away/run", "--split", "validation", "--examples", "4", where=home)
    assert at_home.returncode == 0, at_home.stderr
    assert "running code of" in at_home.stderr
    assert t2t("infer", "run", "--text", "copy: a b", "--max-length", "4", where=away).returncode == 0
    assert t2t("export", "run", "--format", "safetensors", "--out", "weights", where=away).returncode == 0
    asked = t2t("eval", "run", "--split", "validation", "--examples", "4", where=away)
    assert asked.returncode == 2
    assert "task 'rc_own_task'" in asked.stderr.splitlines()[-1]
    assert "--trust-code" in asked.stderr.splitlines()[-1]
    assert not (away / "own-ran").exists()
    assert t2t("eval", "run", "--split", "validation", "--examples", "4", "--trust-code", where=away).returncode == 0
    again = t2t("train", "t5:quickstart", "--dir", "run", *TINY.split(), *own, "--steps", "2", where=away)
    assert again.returncode == 2
    assert "--trust-code" in again.stderr
    done = t2t(
        "train", "t5:quickstart", "--dir", "run", *TINY.split(), *own, "--steps", "2", "--trust-code", where=away
    )
    assert done.returncode == 0, done.stderr
    assert (away / "run/code/own.py").is_file()

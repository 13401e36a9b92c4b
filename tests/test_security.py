"""Promises of docs/security.md about the code as a whole; those of one part are tested beside that part."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from t2t import config
from t2t.api.recipes import quickstart_t5
from t2t.errors import UserError
from t2t.launch.main import run
from t2t.tasks import promptsource
from t2t.tasks.templates import Template
from t2t.train.run import RunRecord
from t2t.vocabularies import Bytes

ROOT = Path(__file__).parents[1]
FOLDERS = ("t2t", "models", "tasks", "launch")
RUNNING_CODE = {"eval", "exec", "compile", "__import__"}
UNPICKLING = re.compile(
    r"(^|\.)(c?pickle|dill|cloudpickle|joblib|shelve|marshal|jsonpickle)\.(load|loads|open|decode|Unpickler)$"
)
IMPORTING = {
    "t2t/former_names.py",  # its own table
    "t2t/__init__.py",  # the names of its own list
    "t2t/config_classes.py",  # modules of its own list
    "t2t/optim/by_name.py",  # Optax, and modules that the user asked for
    "t2t/nn/quantized.py",  # qwix
    "t2t/api/user_code/imports.py",  # --import
    "t2t/api/user_code/run_code.py",  # --trust-code
    "launch/main.py",  # commands
    "launch/launch.py",  # launchers
    "t2t/api/quiet.py",  # TensorFlow's own parts
    "models/__init__.py",  # families of its own list
    "models/registry.py",  # families of the same list
}
"""The files that import modules by a name that is computed."""


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(("t2t/models/", "t2t/tasks/", "t2t/launch/")):  # links to the folders beside t2t
                yield name, ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def wrong(tree: ast.AST) -> list[str]:
    """Return the calls that could run what a file holds."""
    found = []
    for name, call in calls(tree):
        options = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if (
            name in RUNNING_CODE
            or UNPICKLING.search(name)
            or (name.endswith("torch.load") and options.get("weights_only") != "True")
            or options.get("allow_pickle", "False") != "False"
            or options.get("trust_remote_code", "False") != "False"
            or options.get("shell", "False") != "False"
            or name in ("os.system", "os.popen")
            or name in ("yaml.unsafe_load", "yaml.full_load")
            or (name == "yaml.load" and options.get("Loader") != "_Loader")
            or (name.endswith("from_pretrained") and not {"trust_remote_code", None} & set(options))
            or name.endswith(("extractall", "unpack_archive"))
        ):
            found.append(ast.unparse(call))
    return found


@pytest.mark.parametrize(
    "text",
    [
        "eval(text)",
        "pickle.load(file)",
        "import_it.cloudpickle.loads(b)",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(directory)",
        "zipfile.ZipFile(path).extractall(there)",
    ],
)
def test_the_search_finds_what_it_looks_for(text):
    assert wrong(ast.parse(text))


def test_nothing_runs_what_a_file_holds():
    found = {name: bad for name, tree in sources() if (bad := wrong(tree))}
    allowed = {
        # The code of a run, after --trust-code: what was shown and compared with its checksums.
        "t2t/api/user_code/run_code.py": [
            "compile(self.get_source(fullname), str(self._folder / place) if place else '<package>', 'exec')"
        ]
    }
    assert found == allowed


def test_yaml_makes_no_objects(tmp_path):
    mark = tmp_path / "ran"
    (tmp_path / "templates.yaml").write_text(f"!!python/object/apply:os.system ['touch {mark}']\n")
    with pytest.raises(UserError, match=r"templates\.yaml"):
        promptsource.load(tmp_path / "templates.yaml")
    assert not mark.exists()


def test_modules_are_imported_by_a_computed_name_in_these_files_alone():
    found = set()
    for name, tree in sources():
        for called, call in calls(tree):
            if called.endswith(("import_module", "spec_from_file_location")) and not isinstance(
                call.args[0], ast.Constant
            ):
                found.add(name)
    assert found <= IMPORTING


def test_templates_of_files_are_filled_in_a_sandbox():
    """The other environments fill the stack's own templates."""
    plain = {name for name, tree in sources() for called, _ in calls(tree) if called == "jinja2.Environment"}
    assert plain == {"t2t/api/report.py", "launch/launchers/templates.py"}
    for text in ("''.__class__.__mro__[1].__subclasses__()", "zip.__globals__", "x.__init__.__globals__['os']"):
        made = Template(name="t", jinja=f"{{{{ {text} }}}} ||| {{{{ x }}}}")
        with pytest.raises(UserError, match=r"unsafe|no attribute|undefined"):
            made.render({"x": "1"})


@pytest.mark.parametrize("name", ["sr_evil.Loss", "this.Loss", "..x", ".t2t", "os.system", "t2t.launch.main.run"])
def test_a_strangers_class_tag(name, tmp_path, monkeypatch, capsys):
    """Also with the current directory on the path, as with `python -m`."""
    record = config.to_json(RunRecord(recipe="t5:quickstart", experiment=quickstart_t5(), vocabulary=Bytes()))
    record["experiment"]["objective"]["class"] = name
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    (tmp_path / "sr_evil.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for words in (["infer", "run", "--text", "a"], ["export", "run", "--format", "safetensors", "--out", "out"]):
        assert run(words) == 2
        written = capsys.readouterr()
        assert f"no configuration class {name!r}" in written.err
        assert written.err.count("error") == 1
        assert written.out == ""
    assert not (tmp_path / "ran").exists()
    assert not {"sr_evil", "this"} & set(sys.modules)


def locked(name: str) -> dict[str, list[str]]:
    """Return the requirements of a list, "name==version" -> its hashes."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement, *rest = line.split(" --hash=")
            found[requirement.strip()] = [part.strip() for part in rest]
    return found


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_locked_package_has_a_version_and_hashes(name):
    found = locked(name)
    assert len(found) > 80
    for requirement, hashes in found.items():
        assert re.match(r"[a-z0-9.-]+==[^ ]+( ;.*)?$", requirement)
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes)
    versions = set((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    assert set(found) <= versions


def test_what_is_locked_is_what_setup_asks_for():
    asked = importlib.metadata.requires("t2t-jax") or []
    have = {line.partition("==")[0]: line.partition("==")[2].split(" ")[0] for line in locked("requirements-dev.txt")}
    for requirement in map(Requirement, asked):
        if requirement.marker is None or requirement.marker.evaluate({"extra": "dev"}):
            assert requirement.specifier.contains(have[canonicalize_name(requirement.name)]), requirement


def test_make_installs_by_hash():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert makefile.count("--require-hashes -r requirements") == 2
    assert makefile.count("$(INSTALL) --no-deps --no-build-isolation -e .") == 2


def test_the_page_names_tests_that_are_there():
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[^`]+\.py)`", page)
    assert len(named) > 9
    assert [name for name in named if not (ROOT / name).is_file()] == []

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import types
import typing
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest

from t2t import config, config_classes
from t2t.data.cached.manifest import Manifest
from t2t.errors import UserError
from t2t.launch.grid.costs import Costs
from t2t.train.run import RunRecord


@dataclass(frozen=True, kw_only=True)
class Rate:
    peak: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class Slow(Rate):
    warmup: int = 10


@dataclass(frozen=True, kw_only=True)
class Whole:
    rate: Rate
    name: str = "ünï"
    pair: tuple[int, int] = (1, 2)
    names: tuple[str, ...] = ()
    mode: Literal["a", "b"] = "a"
    maybe: int | None = None
    shares: dict[str, float] = field(default_factory=dict)


WHOLE = Whole(rate=Slow(warmup=3), shares={"x": 0.5}, names=("p", "q"))


def test_comes_back_as_it_was_with_its_classes():
    again = config.loads(config.dumps(WHOLE))
    assert again == WHOLE
    assert type(again.rate) is Slow


def test_an_integer_is_a_float_but_a_bool_is_no_integer():
    data = config.to_json(WHOLE)
    data["rate"]["peak"] = 1
    assert config.from_json(data).rate.peak == 1
    data["maybe"] = True
    with pytest.raises(UserError, match=r"f\.json\.maybe: True is not int \| None"):
        config.from_json(data, where="f.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nme": 1}, "has no field 'nme'. Nearest: name"),
        ({"mode": "c"}, "'c' is not one of 'a', 'b'"),
        ({"pair": [1]}, r"mode|pair: \[1\] is not tuple"),
        ({"class": "nowhere.At"}, "no configuration class 'nowhere.At'"),
        ({"class": "os.path.join"}, "no configuration class 'os.path.join'"),
        ({"class": "t2t.launch.main.main"}, "no configuration class 't2t.launch.main.main'"),
        (
            {"class": "t2t.optim.optimizers.Adam"},
            "no configuration class 't2t.optim.optimizers.Adam'.*Nearest: t2t.optim.optimizers.AdamW",
        ),
        ({"class": "t2t.optim.optimizers.dataclass"}, "no configuration class"),
        ({"class": "..x"}, "no configuration class '..x'"),
        ({"class": ".t2t"}, "no configuration class '.t2t'"),
        ({"class": ""}, "no configuration class ''"),
        ({"class": 3}, "no configuration class 3"),
        ({"class": None}, "no configuration class None"),
        ({"class": ["t2t.optim.optimizers.AdamW"]}, "no configuration class"),
        ({"names": ["p", 3]}, "names"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(UserError, match=message):
        config.from_json(config.to_json(WHOLE) | change)


def test_a_class_tag_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("stranger.Loss", "this.Loss", "antigravity.Loss"):
        with pytest.raises(UserError, match="no configuration class"):
            config.from_json({"class": name})
    assert not (tmp_path / "ran").exists()
    assert not {"stranger", "this", "antigravity"} & set(sys.modules)


def test_a_class_of_a_module_that_the_user_asked_for(monkeypatch):
    module = types.ModuleType("cc_own")
    monkeypatch.setitem(sys.modules, "cc_own", module)
    exec("from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine:\n    a: int = 1", vars(module))
    with pytest.raises(UserError, match="no configuration class"):
        config.from_json({"class": "cc_own.Mine"})
    config_classes.register_module(module)
    assert config.from_json({"class": "cc_own.Mine", "a": 2}).a == 2


def test_the_list_of_modules_has_every_class_that_a_run_may_be_made_of():
    """Each dataclass that the fields of a run's record lead to, and each of its subclasses, comes back from its tag."""
    for name in config_classes._MODULES:
        importlib.import_module(name)
    found: set[type] = set()

    def walk(cls: type) -> None:
        if cls in found or not cls.__module__.startswith("t2t.") or cls.__module__.startswith("t2t_own"):
            return
        found.add(cls)
        for below in cls.__subclasses__():
            walk(below)
        if not dataclasses.is_dataclass(cls):
            return
        hints = typing.get_type_hints(cls)
        for part in (hints[f.name] for f in dataclasses.fields(cls)):
            for each in (part, *typing.get_args(part)):
                if isinstance(each, type):
                    walk(each)

    for root in (RunRecord, Manifest, Costs):
        walk(root)
    concrete = [cls for cls in found if dataclasses.is_dataclass(cls) and not cls.__subclasses__()]
    assert len(concrete) > 20
    for cls in concrete:
        name = f"{cls.__module__}.{cls.__qualname__}"
        assert config_classes.find(name) is cls, name


def test_a_missing_field_is_named():
    data = config.to_json(WHOLE)
    del data["rate"]
    with pytest.raises(UserError, match="is missing rate"):
        config.from_json(data)


def test_broken_json_names_file_and_line():
    with pytest.raises(UserError, match=r"run\.json:2: not JSON"):
        config.loads('{\n"a": }', where="run.json")


def test_what_json_could_not_give_back_is_refused():
    with pytest.raises(TypeError, match="maybe: list"):
        config.to_json(replace(WHOLE, maybe=[1]))


def test_differences_are_told_value_by_value():
    other = replace(WHOLE, rate=Rate(peak=1e-3), pair=(1, 3))
    lines = config.differences(WHOLE, other)
    assert "pair: [1, 2] -> [1, 3]" in lines
    assert "rate.warmup: 3 -> (none)" in lines
    assert any(line.startswith("rate.class: ") for line in lines)
    assert config.differences(WHOLE, WHOLE) == []


def test_the_fingerprint_is_of_the_content():
    assert config.fingerprint(WHOLE) == config.fingerprint(config.loads(json.dumps(config.to_json(WHOLE))))
    assert config.fingerprint(WHOLE) != config.fingerprint(replace(WHOLE, name="x"))

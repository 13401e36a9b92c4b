from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest

from t2t import config
from t2t.errors import UserError


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
        ({"class": "os.path.join"}, "not a configuration class"),
        ({"names": ["p", 3]}, "names"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(UserError, match=message):
        config.from_json(config.to_json(WHOLE) | change)


def test_a_missing_field_is_named():
    data = config.to_json(WHOLE)
    del data["rate"]
    with pytest.raises(UserError, match="lacks rate"):
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

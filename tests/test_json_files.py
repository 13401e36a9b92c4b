import pytest

from t2t.errors import UserError
from t2t.json_files import parse_json, read_json

DAMAGED = {
    b"\xff\xfe{}": "not UTF-8",
    b"{": r"x\.json:1: not JSON",
    b"[" * 100_000: "nested too deep",
    b'{"a": ' + b"9" * 5000 + b"}": "too many digits",
    b'{"a": 1, "a": 2}': "'a' appears twice",
    b"[]": "is not an object",
    b"null": "is not an object",
    b"5": "is not an object",
}


@pytest.mark.parametrize(("content", "said"), DAMAGED.items(), ids=list(DAMAGED.values()))
def test_damage_is_one_line_that_names_the_file(content, said, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as told:
        read_json(path)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


def test_a_byte_order_mark_is_no_damage(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1.5, null]}')
    assert read_json(path) == {"a": [1.5, None]}


def test_a_boolean_is_no_number():
    with pytest.raises(UserError, match="here: true is not an integer"):
        parse_json("true", where="here", shape=int)
    assert parse_json("1", where="here", shape=float) == 1

"""Two checkouts measured side by side."""

import json

import pytest

from benchmarks import versions
from t2t.errors import UserError
from tests.docs.test_snippets import ROOT


def test_the_table_has_ratios_of_medians():
    peers = {"before": {"rounds": [[2.0, 4.0, 3.0], [1.0]]}, "after": {"rounds": [[6.0], [1.0, 1.0]]}}
    results = {
        "cases": [
            {"name": "train: t5", "peers": peers},
            {"name": "lost", "peers": {"before": {}, "after": {"rounds": [[1.0]]}}},
        ]
    }
    *_, first, second = versions.table(results).splitlines()
    assert first == "| train: t5 | 2.000 | 3.500 | 1.75 | 1.00 to 2.00 |"
    assert second == "| lost | | | not measured | |"


def test_a_directory_without_an_environment_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"AFTER .*: there is no .*/\.venv/bin/python\. Run `make \.venv/installed` there"
    ):
        versions.main([str(tmp_path), str(tmp_path)])


@pytest.mark.slow
def test_a_checkout_beside_itself(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # the tests' eight devices
    out = tmp_path / "versions.json"
    words = [
        "--scale",
        "tiny",
        "--work",
        "train",
        "--only",
        "gpt2",
        "--rounds",
        "2",
        "--repeats",
        "1",
        "--out",
        str(out),
    ]
    versions.main([str(ROOT), str(ROOT), *words])
    assert capsys.readouterr().out.splitlines()[-1].startswith("| train: gpt2 adamw | ")
    (case,) = json.loads(out.read_text())["cases"]
    assert [len(case["peers"][name]["rounds"]) for name in ("before", "after")] == [2, 2]

"""`t2t cache` by two processes of Beam's; tests/faults/test_cache.py kills it."""

import json

import pytest

from t2t.launch.main import run

TASK = """
from t2t import tasks
from t2t.tasks import objectives, sources

tasks.add("written_texts", source=sources.text({source!r}), targets="text", objective=objectives.causal_lm, replace=True)
"""


@pytest.fixture
def place(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"text number {i}\n" for i in range(3_000)))
    (tmp_path / "written.py").write_text(TASK.replace("{source!r}", repr(str(texts))))
    return tmp_path


def words(place, *more):
    return ["cache", "written_texts", "--out", str(place / "out"), "--import", str(place / "written.py"), *more]


@pytest.mark.slow
def test_two_processes_of_beam_write_what_one_process_writes(place, capsys):
    pytest.importorskip("apache_beam")
    assert run(words(place, "--workers", "2")) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == "written_texts: 0 of 3 shards are complete"
    assert all("shards are complete" in line for line in said.err.splitlines())
    shown = said.out.splitlines()
    assert shown[0].split() == ["task", "split", "shards", "examples", "tokens", "bytes"]
    assert shown[-1].split()[:4] == ["written_texts", "train", "3", "3,000"]
    assert run(words(place, "--verify")) == 0

    directory = place / "out/written_texts"
    assert sorted(file.name for file in directory.iterdir()) == [
        "manifest.json",
        *(f"train-{i:05d}-of-00003.array_record" for i in range(3)),
    ]
    made = json.loads((directory / "manifest.json").read_text())
    (place / "out").rename(place / "beam")
    assert run(words(place, "--workers", "1")) == 0
    assert json.loads((directory / "manifest.json").read_text()) == made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--runner=FlnkRunner", "Unexpected pipeline runner: FlnkRunner"),
        ("--direct_num_workers=many", "argument --direct_num_workers: invalid int value: 'many'"),
    ],
)
def test_options_that_beam_does_not_take(place, capsys, options, message):
    pytest.importorskip("apache_beam")
    assert run(words(place, f"--beam={options}")) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]

import json
import os
import subprocess
import sys

import pytest
import seqio

from t2t import tasks
from t2t.errors import UserError
from t2t.tasks import documentation
from t2t.tasks.docstrings import Entry, entries, extract, source_files

SOURCE = '''
"""Module about things.

It has a long explanation of what these things are and of how they are to be used by everyone.
"""

class Thing(Base):
    """A thing which can be counted, named and put away again when nobody needs it any more.

    Example:
        Indented text stays indented.
    """

    async def count(self, *others: "Thing", start=0) -> int:
        """Return the number of things, this one and the others, from the start that is given."""

if True:
    def guarded(x):
        \'\'\'Return x after it was looked at from all sides and found to be just what it was before.\'\'\'

def short():
    """Too short."""

def table():
    """
    1.0 2.0 3.0 4.0 5.0 6.0 7.0 8.0 9.0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1.1 1.2 1.3 1.4 1.5
    """
'''


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small corpus of its own in a cache of its own."""
    monkeypatch.setenv("T2T_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(documentation, "PACKAGES", ("optax",))
    return tmp_path / "cache"


def test_docstrings_and_their_signatures(tmp_path):
    (tmp_path / "things.py").write_text(SOURCE)
    found = entries(str(tmp_path / "things.py"))
    assert [entry.signature for entry in found] == [
        "module things",
        "class Thing(Base)",
        "def count(self, *others: 'Thing', start=0) -> int",
        "def guarded(x)",
    ]
    assert found[1].text.splitlines()[-1] == "    Indented text stays indented."
    assert not found[0].text.endswith("\n")


def test_files_that_are_not_read(tmp_path):
    for name in ("a.py", "b_test.py", "test_c.py", "d_pb2.py", "e.txt", "tests/f.py", "inner/g.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(SOURCE)
    assert [os.path.relpath(path, tmp_path) for path in source_files(str(tmp_path))] == ["a.py", "inner/g.py"]
    (tmp_path / "broken.py").write_text("def (:\n" + SOURCE)
    (tmp_path / "latin.py").write_bytes(b"\xff" + SOURCE.encode())
    assert entries(str(tmp_path / "broken.py")) == entries(str(tmp_path / "latin.py")) == []
    assert entries(str(tmp_path / "gone.py")) == []


def test_the_corpus_does_not_depend_on_the_number_of_processes():
    files = source_files(documentation._root("optax"))
    alone = extract(files, 1)
    assert len(alone) > 100
    assert extract(files, 3) == alone
    assert len({entry.text for entry in alone}) == len(alone)


def test_the_corpus_is_made_once_and_kept_by_version(library, monkeypatch):
    made = documentation.corpus(processes=2)
    assert made.parent.parent == library
    lines = (made / "corpus.jsonl").read_text(encoding="utf-8")
    monkeypatch.setattr(documentation, "extract", None)
    assert documentation.corpus() == made
    monkeypatch.undo()
    monkeypatch.setenv("T2T_CACHE", str(library))
    monkeypatch.setattr(documentation, "PACKAGES", ("optax",))
    (made / "summaries.jsonl").unlink()
    assert documentation.corpus(processes=1) == made
    assert (made / "corpus.jsonl").read_text(encoding="utf-8") == lines
    monkeypatch.setattr(documentation, "_version", lambda name, root: "0.0.1")
    assert documentation.corpus() != made
    assert not [path for path in made.parent.iterdir() if "." in path.name]


def test_nothing_to_read_and_nowhere_to_write(library, monkeypatch, tmp_path):
    monkeypatch.setattr(documentation, "PACKAGES", ("no_such_package",))
    with pytest.raises(UserError, match="none of no_such_package is installed"):
        documentation.corpus()
    (tmp_path / "file").touch()
    monkeypatch.setenv("T2T_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cache directory .*from T2T_CACHE.* cannot be created"):
        documentation.corpus()


def test_views_of_an_entry():
    text = "Return the mean of\nall values. And more.\n\n" + "\n".join(
        f"Line {n} of the explanation." for n in range(40)
    )
    found = dict(documentation.views(Entry(text, "def mean(x)")))
    assert found["corpus"]["text"] == text
    assert found["summaries"]["summary"] == found["signatures"]["summary"] == "Return the mean of all values."
    assert found["summaries"]["body"].endswith("of the explanation.")
    assert 400 < len(found["summaries"]["body"]) <= 480
    assert text.split("\n\n")[1].startswith(found["summaries"]["body"])
    assert found["signatures"]["signature"] == "def mean(x)"
    assert len({record["key"] for record in found.values()}) == 1
    assert "signatures" not in dict(documentation.views(Entry(text, "module m")))
    assert list(dict(documentation.views(Entry("No end of a sentence\n\n" + text[40:], "def f()")))) == ["corpus"]


def test_splits_are_disjoint_over_all_views(library):
    keys: dict[str, set] = {}
    for view in documentation.VIEWS:
        source = documentation.DocumentationSource(view)
        for split in ("train", "validation", "test"):
            found = {e["key"] for e in source.get_dataset(split, shuffle=False).as_numpy_iterator()}
            keys[split] = keys.get(split, set()) | found
    assert not keys["train"] & keys["validation"]
    assert not (keys["train"] | keys["validation"]) & keys["test"]
    total = sum(map(len, keys.values()))
    corpus = (documentation.corpus() / "corpus.jsonl").read_text(encoding="utf-8")
    assert 0.9 < len(keys["train"]) / total < 0.99
    assert total == corpus.count("\n")


NAMES = [
    "docs_span_corruption",
    "docs_causal_lm",
    "docs_prefix_lm",
    "docs_continuation",
    "docs_full_lm",
    "docs_masked_lm",
    "docs_electra",
    "docs_summary",
    "docs_signature",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_task_gives_examples(name, library):
    task = tasks.find(name)
    # The index of a source is kept with it; this corpus is another.
    task = task.replace(source=documentation.DocumentationSource(task.source.view))
    targets = 128 if name in ("docs_masked_lm", "docs_electra") else 512
    example = next(
        task.get_dataset({"inputs": 128, "targets": targets}, "validation", shuffle=False).as_numpy_iterator()
    )
    assert set(task.output_features) <= set(example)
    assert example["targets"].size > 0
    assert task.num_input_examples("train") > task.num_input_examples("validation") > 0
    if name in ("docs_summary", "docs_signature"):
        assert example["inputs_pretokenized"].startswith((b"summarize: ", b"describe: "))
        assert len(example["targets_pretokenized"]) <= 200


def test_registering_makes_no_corpus(library, monkeypatch):
    monkeypatch.setattr(documentation, "extract", None)
    for name in NAMES:
        seqio.TaskRegistry.remove(name)
    documentation.register()
    assert [tasks.describe(name, sizes=False).name for name in NAMES] == NAMES
    assert [list(tasks.find(name).splits) for name in NAMES] == [["train", "validation", "test"]] * len(NAMES)
    assert not library.exists()


def test_the_extractor_as_a_program_is_light():
    program = (
        "import runpy, sys, io, json; sys.stdin = io.StringIO(json.dumps([sys.argv[1]]));"
        "runpy.run_path(sys.argv[1], run_name='__main__'); print(sorted(sys.modules), file=sys.stderr)"
    )
    path = documentation.__file__.replace("documentation", "docstrings")
    result = subprocess.run([sys.executable, "-c", program, path], check=True, capture_output=True, text=True)
    assert "'numpy'" not in result.stderr
    assert json.loads(result.stdout)[0][1] == "module docstrings"

"""The command line's promises: one line and code 2 for a mistake, before any long work."""

from __future__ import annotations

import subprocess
import sys

import pytest

from t2t.launch.main import COMMANDS, run

MISTAKES = [
    ("trian t5:quickstart", "unknown command 'trian'. Nearest: train"),
    ("train", "t2t train: RECIPE is missing"),
    ("train t5:quikstart --dir {dir}", "unknown recipe 't5:quikstart'. Nearest: t5:quickstart"),
    ("train t5:quickstart", "--dir RUN is missing"),
    ("train nowhere.py:f --dir {dir}", "recipe 'nowhere.py': no such file"),
    ("train json:nothing --dir {dir}", "json has no function 'nothing'"),
    ("train t5:quickstart --dir {dir} --stepz 3", "unknown option --stepz. Nearest: --steps"),
    ("train t5:quickstart --dir {dir} --steps many", "'many'"),
    (
        "train t5:quickstart --dir {dir} --steps 0",
        "steps 0 (--steps) is not a whole number from 1 to 2147483647. Nearest: 1",
    ),
    (
        "train t5:quickstart --dir {dir} --data.inputs-length 1000000000",
        "(--data.inputs-length) is not a whole number from 1",
    ),
    (
        "train t5:quickstart --dir {dir} --evaluation.length 100000",
        "(--evaluation.length) is not a whole number from 1",
    ),
    (
        "train gpt:quickstart --dir {dir} --evaluation.length 100",
        "length 100 (--evaluation.length) to generate is more than the 80 positions that remain of the model's 128. Nearest: 80.",
    ),
    ("train gpt:quickstart --dir {dir} --evaluation.few-shot.length 200", "the model's 128 positions. Nearest: 128."),
    (
        "train t5:quickstart --dir {dir} --learning-rate 3",
        "unknown option --learning-rate. Nearest: --optimizer.schedule.peak.",
    ),
    ("train t5:quickstart --dir {dir} --mesh.data 3", "needs 3 devices, but there are 8"),
    ("train t5:quickstart --dir {dir} --batch-size 12", "batch_size 12 (--batch-size) is not divisible"),
    ("train t5:quickstart --dir {dir} --microbatches 5", "is not divisible by 5 microbatches"),
    ("train t5:quickstart --dir {dir} --data.shards 5", "shards"),
    ("train t5:quickstart --dir {dir} --mesh.data 1 --mesh.tensor 8", "heads = 4"),
    ("train gpt:quickstart --dir {dir} --data.targets-length 512", "longer than the model's 128 learned positions"),
    (
        "train gpt:quickstart --dir {dir} --data.targets-length 79 --mesh.data 1 --mesh.context 8",
        "is not divisible by mesh context=8 (--mesh.context). Nearest: 128.",
    ),
    ("train t5:quickstart --dir {dir} --data.task reverse_word", "reverse_word"),
    ("train t5:quickstart --dir {dir} --data.split trian", "trian"),
    ("train bert:quickstart --dir {dir} --data.task reverse_words", "_fill_mask"),
    ("train t5:quickstart --dir {dir} --model.vocab-size 100", "vocab_size 100"),
    ("train t5:quickstart --dir {dir} --vocabulary nowhere.model", "nowhere.model"),
    ("train t5:quickstart --dir {dir} --trainable.exclude encodr/**", "encodr/**"),
    ("train t5:quickstart --dir {dir} --data.targets-length 10", "targets"),
    ("eval {dir}", "no run directory"),
    ("infer {dir} --text a", "no run directory"),
    ("export {dir} --format onnx --out {dir}", "unknown format 'onnx'"),
    ("models t5:1.1-bas", "t5:1.1-base"),
    ("tasks reverse_word", "reverse_words"),
    ("vocab reverse_word --size 300 --out {dir}-v", "reverse_words"),
    ("tasks --import nowhere.py", "--import 'nowhere.py': no such file"),
    ("tasks --import nowhere_module", "--import 'nowhere_module': no such module"),
]
FOUND_LATE = [
    (
        "train t5:quickstart --dir {dir} --evaluation.tasks reverse_words --checkpoint.best-metric eval/reverse_words/exact_macth",
        "(--checkpoint.best-metric): no evaluation of this run has that metric. Nearest: eval/reverse_words/exact_match",
    ),
    (
        "train t5:quickstart --dir {dir} --evaluation.tasks reverse_words --evaluation.few-shot.shots 100000",
        "100000 examples are needed",
    ),
    ("train t5:quickstart --dir {dir} --evaluation.tasks nothing_like_it", "nothing_like_it"),
    ("train t5:quickstart --dir {dir} --start-from.run nowhere_at_all", "nowhere_at_all"),
]
"""Mistakes that are found in the data or in another run, when the compilation has begun."""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *(pytest.param(*mistake, id=mistake[0]) for mistake in MISTAKES),
        *(pytest.param(*mistake, id=mistake[0], marks=pytest.mark.slow) for mistake in FOUND_LATE),
    ],
)
def test_a_mistake_is_one_line_and_code_2(words, message, tmp_path, capsys):
    directory = tmp_path / "run"
    given = words.format(dir=directory).split()
    if "--dir" in given and "--steps" not in words:
        given += ["--steps", "1", "--evaluation.examples", "1"]  # soon over, should it not be refused
    assert run(given) == 2
    written = capsys.readouterr().err
    assert message in written
    assert written.startswith("error: ")
    assert len(written.splitlines()) == 1  # not even a note before it
    assert not (directory / "checkpoints").exists()


def test_a_missing_run_is_reported_with_the_path_of_the_nearest_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs/sentiment").mkdir(parents=True)
    (tmp_path / "runs/sentiment/run.json").touch()
    monkeypatch.chdir(tmp_path)
    assert run(["infer", "runs/nothing", "--text", "a"]) == 2
    assert capsys.readouterr().err == "error: no run directory runs/nothing. Nearest: runs/sentiment.\n"


def test_help_of_every_command(capsys):
    assert run([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    for name in COMMANDS:
        words = [name, "t5:quickstart", "--help"] if name == "train" else [name, "--help"]
        assert run(words) == 0
        assert "usage: t2t" in capsys.readouterr().out


def test_import_of_the_folder_names_is_refused():
    messages = {
        "models": "import t2t.models, not models",
        "tasks": "import t2t.tasks instead of tasks",
        "launch": "import t2t.launch, not launch",
    }
    for name, message in messages.items():
        found = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True)
        assert message in found.stderr


@pytest.mark.slow
def test_commands_that_make_no_data_never_load_tensorflow(tmp_path):
    """Whole commands, one after the other in one process: each has TensorFlow left alone."""
    from t2t import models
    from t2t.checkpoint import Checkpoints
    from t2t.data import Data
    from t2t.optim import AdamW, Constant
    from t2t.train.background_compiler import BackgroundCompiler
    from t2t.train.experiment import Experiment
    from t2t.train.run import CHECKPOINTS, RunRecord, open_run
    from t2t.vocabularies import Bytes

    experiment = Experiment(
        model=models.gpt.gpt(num_layers=1, d_model=8, num_heads=1, vocab_size=384, max_length=64),
        data=Data(task="reverse_words", inputs_length=8, targets_length=8, batch_size=8),
        optimizer=AdamW(schedule=Constant(peak=1e-3)),
    )
    directory = str(tmp_path / "run")
    open_run(tmp_path / "run", RunRecord(recipe="tiny", experiment=experiment, vocabulary=Bytes()))
    with Checkpoints(tmp_path / "run" / CHECKPOINTS) as checkpoints:
        checkpoints.save(1, BackgroundCompiler(experiment, newest=1000).state(), {}, {})
    commands = [
        ["infer", directory, "--text", "a", "--max-length", "2"],
        ["export", directory, "--format", "safetensors", "--out", str(tmp_path / "out")],
        ["models", "t5:1.1-small"],
        ["recipes"],
        ["plan", "t5:quickstart", "--help"],
    ]
    code = (
        "import sys\nfrom t2t.launch.main import run\n"
        f"for words in {commands!r}: assert run(words) == 0, words\n"
        "print([name for name in ('tensorflow', 'seqio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")


@pytest.mark.slow
def test_tensorflow_is_imported_without_keras_which_is_there_when_it_is_used():
    code = (
        "import sys\nfrom t2t.api.quiet import import_tensorflow\nimport_tensorflow()\n"
        "heavy = ('keras', 'tensorflow_text', 'pyglove')\n"
        "print([name for name in heavy if name in sys.modules], sys.meta_path[0].__class__.__name__ == '_Failing')\n"
        "import seqio\n"
        "print(seqio.vocabularies.tf_text.SentencepieceTokenizer.__name__, 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[] False", "SentencepieceTokenizer True"], done.stderr
    assert done.stderr == ""


@pytest.mark.slow
def test_tensorflow_says_nothing_of_its_own_when_a_users_module_imports_it(tmp_path):
    (tmp_path / "mine.py").write_text("import tensorflow\n")
    words = [sys.executable, "-m", "t2t.launch", "recipes", "--import", str(tmp_path / "mine.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_inference_and_models_never_load_tensorflow():
    words = "t2t.models t2t.decode t2t.checkpoint t2t.export t2t.launch.infer t2t.train.run t2t.api.recipes t2t.data"
    code = f"import sys\nfor name in {words.split()}: __import__(name)\nprint([m for m in ('tensorflow', 'seqio') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"

"""A real, tiny training in separate processes, forked from a server that has already imported all modules, so that a start only takes seconds."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

# The fork server imports everything that workers need once, here. Imports must not start a JAX backend.
from t2t import models
from t2t import tasks as _tasks
from t2t.checkpoint import CheckpointConfig, Checkpoints
from t2t.data import Data
from t2t.data import pipeline as _pipeline
from t2t.errors import UserError, in_one_line
from t2t.optim import AdamW, Constant
from t2t.sharding import MeshConfig
from t2t.train import loop as _loop
from t2t.train.evaluation import Evaluation
from t2t.train.experiment import Experiment
from t2t.train.program import Program
from t2t.train.run import RunRecord, open_run_on_all, read_record

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.training"])

TINY = Experiment(
    model=models.t5.t5(num_layers=1, d_model=16, num_heads=2, d_ff=32, vocab_size=384, dropout=0.1),
    # Packing, shuffling and mixing: a restarted run must restore all of their states.
    data=Data(task="faults_mixture", inputs_length=48, targets_length=24, batch_size=8, shards=4, shuffle_buffer=20),
    optimizer=AdamW(schedule=Constant(peak=1e-2)),
    steps=40,
    log_every=1,
    checkpoint=CheckpointConfig(every=5, keep_last=2, keep_best=0),
    evaluation=Evaluation(split=None),
)


class Marks:
    """An observer that writes each event to a file, one per line, so that tests can kill a process at that moment."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def mark(self, text: str) -> None:
        self._file.write(text + "\n")

    def on_start(self, total, start):
        self.mark(f"start {start}")

    def on_log(self, step, metrics):
        self.mark(f"step {step}")

    def on_eval(self, step, results):
        self.mark(f"eval {step}")

    def on_message(self, text):
        self.mark(text)

    def on_end(self):
        self.mark("end")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings of a training.

    cache:   directory of the compilation cache shared between processes.
    prepare: "module:function" that each worker calls first.
    aside:   directory of the marks and the log; None for the parent of `directory`.
    """

    directory: Path
    experiment: Experiment = TINY
    processes: int = 1
    devices: int = 1
    cache: Path | None = None
    prepare: str | None = None
    aside: Path | None = None

    @property
    def marks(self) -> Path:
        return (self.aside or self.directory.parent) / f"{self.directory.name}.marks"

    @property
    def log(self) -> Path:
        return (self.aside or self.directory.parent) / f"{self.directory.name}.log"


class Training:
    """The processes of one start of a training run."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        setting.marks.write_text("")
        setting.directory.parent.mkdir(parents=True, exist_ok=True)
        port = _free_port()
        self.processes = [
            CONTEXT.Process(target=work, args=(setting, rank, port), daemon=True) for rank in range(setting.processes)
        ]
        for process in self.processes:
            process.start()

    def marked(self) -> list[str]:
        """Return the lines that process 0 has written to the marks file so far."""
        return self.setting.marks.read_text().splitlines()

    def wait_for(self, beginning: str, seconds: float = 240) -> str:
        """Wait for a marks line that starts with `beginning` and return it. Raise AssertionError if the training ends first, or after `seconds`."""
        until = time.monotonic() + seconds
        while True:
            for line in self.marked():
                if line.startswith(beginning):
                    return line
            assert self.alive(), f"ended with {self.codes()} before {beginning!r}: {self.text()[-3000:]}"
            assert time.monotonic() < until, f"no {beginning!r} within {seconds} s: {self.text()[-3000:]}"
            time.sleep(0.001)

    def alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def join(self, seconds: float = 240) -> list[int | None]:
        """Wait for all processes to end, kill those that remain, and return the exit codes."""
        until = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        codes = self.codes()
        for process in self.processes:
            process.kill()
        return codes

    def codes(self) -> list[int | None]:
        return [process.exitcode for process in self.processes]

    def text(self) -> str:
        """Return the output of the processes."""
        return self.setting.log.read_text(errors="replace") if self.setting.log.exists() else ""


def work(setting: Setting, rank: int, port: int) -> None:
    """Run one process of a training."""
    out = os.open(setting.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    code = 1
    try:
        code = _train(setting, rank, port)
        if setting.processes > 1:
            # All processes end here together. Without this, JAX aborts those that still run when process 0 ends.
            import jax

            jax.distributed.shutdown()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BaseException as error:
        line = in_one_line(error)
        if line is None:
            traceback.print_exc()
        else:
            print(f"error: {line}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)  # after a failure, a normal exit would wait for processes that may be dead


def _train(setting: Setting, rank: int, port: int) -> int:
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", setting.devices)
    if setting.cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(setting.cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if setting.processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", setting.processes, rank, heartbeat_timeout_seconds=8)
    _tasks.mix("faults_mixture", {"reverse_words": 2, "sort_numbers": 1}, replace=True)
    if setting.prepare is not None:
        import importlib

        module, _, function = setting.prepare.partition(":")
        getattr(importlib.import_module(module), function)(setting, rank)
    vocabulary = _pipeline.task_vocabulary(setting.experiment.data)
    record = RunRecord(recipe="tiny", experiment=setting.experiment, vocabulary=vocabulary)
    observer = Marks(setting.marks)
    outcome = _loop.train(setting.directory, open_run_on_all(setting.directory, record), observer, began=time.time())
    return 75 if outcome.stopped else 0


def arrays(directory: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """Return all arrays of a checkpoint (default: the newest), including the optimizer state, read on one device."""
    import jax

    experiment = replace(read_record(directory).experiment, mesh=MeshConfig())
    program = Program.of(experiment, MeshConfig().build(jax.devices()[:1]))
    with Checkpoints(directory / "checkpoints") as checkpoints:
        step = checkpoints.latest() if step is None else step
        assert checkpoints.damage(step) == []
        state = checkpoints.restore(step, program.abstract_state())
    state = state.replace(key=jax.random.key_data(state.key))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def losses(directory: Path) -> dict[int, float]:
    """Return the loss of each step."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    """Return the paths of arrays that are not bitwise equal."""
    assert one.keys() == other.keys()
    return [path for path in one if one[path].tobytes() != other[path].tobytes()]


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]

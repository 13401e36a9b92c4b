"""`t2t launch slurm`: a batch script with one task per GPU, which saves before the time limit and requeues itself."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from t2t.errors import UserError
from t2t.launch.launchers.templates import check_plain, render, submit
from t2t.limits import Configuration, Few, FewOrZero, Parts, Seconds
from t2t.paths import LocalPath

_MEMORY = re.compile(r"0|[1-9]\d{0,8}[KMGT]?")
_TIME = re.compile(r"(\d+-)?\d+(:\d\d){0,2}|UNLIMITED")


@dataclass(frozen=True, kw_only=True)
class Slurm(Configuration):
    """Submit a training to SLURM. With --dry-run, print the batch script.

    Each GPU has one process. Before the time limit, and when the job is preempted, the training saves and exits with code 75. The job is then
    requeued and resumes from the checkpoint. The Python environment of this command must exist on the nodes.

    Args:
        nodes: number of nodes.
        gpus_per_node: GPUs, and processes, per node; 0 trains on CPUs.
        tasks_per_node: processes per node if there are no GPUs.
        cpus_per_task: CPU cores per process, for example for reading data.
        memory: memory per node, in SLURM's notation (64G).
        time: time limit of one run of the job, in SLURM's notation. An unfinished training resumes in the next run.
        signal_before: seconds before the time limit at which the training saves.
        wait: seconds after the exit of the first process at which the others are killed.
        heartbeat: seconds without a heartbeat after which a process counts as dead.
        name: name of the job.
        output: log file, with SLURM's patterns (%x for the name, %j for the job). Restarts append to it.
        partition: SLURM's --partition.
        account: SLURM's --account.
        qos: SLURM's --qos.
        constraint: SLURM's --constraint.
        setup: shell lines to run before the start ("module load cuda").
        chdir: working directory. Default: the current directory.
        dry_run: print the script and submit nothing.
    """

    nodes: Parts = 1
    gpus_per_node: FewOrZero = 8
    tasks_per_node: Few | None = None
    cpus_per_task: Parts | None = None
    memory: str | None = None
    time: str = "24:00:00"
    signal_before: Seconds = 300
    wait: Seconds = 120
    heartbeat: Seconds = 8
    name: str = "t2t"
    output: str = "%x-%j.log"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()
    chdir: LocalPath | None = None
    dry_run: bool = False

    def check(self) -> None:
        """Raise UserError for invalid options."""
        for name in ("name", "output", "partition", "account", "qos"):
            check_plain(getattr(self, name), f"--{name}", "slurm")
        if self.memory is not None and not _MEMORY.fullmatch(self.memory):
            digits = re.search(r"[1-9]\d*", self.memory)
            raise UserError(
                f"t2t launch slurm: --memory {self.memory!r} is not a memory size: expected a whole number followed by K, M, G or T, or 0 for all"
                f" memory of a node. Nearest: {digits[0] if digits else 64}G."
            )
        if self.constraint is not None and not re.fullmatch(r"[A-Za-z0-9_.&|*()\[\],-]+", self.constraint):
            raise UserError(
                f"t2t launch slurm: --constraint {self.constraint!r} is not a constraint. Nearest: a feature's name."
            )
        if not _TIME.fullmatch(self.time):
            raise UserError(
                f"t2t launch slurm: --time {self.time!r} is not a time limit. Nearest: 24:00:00 or 1-00:00:00."
            )
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise UserError(
                f"t2t launch slurm: --tasks-per-node {self.tasks_per_node}: each of the {self.gpus_per_node} GPUs (--gpus-per-node) has one process."
                f" Nearest: {self.gpus_per_node}."
            )

    def script(self, words: Sequence[str]) -> str:
        """Return the batch script that runs `t2t WORDS`. Raises UserError for invalid options."""
        self.check()
        values = {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "tasks_per_node": self.gpus_per_node or self.tasks_per_node or 1,
            "chdir": self.chdir or os.getcwd(),
            "command": shlex.join([sys.executable, "-m", "t2t.launch", *words]),
        }
        return render("slurm.sh.jinja", **values)

    def launch(self, words: Sequence[str]) -> int:
        """Submit the script or print it, and return the exit code. Raises UserError if sbatch is missing or fails."""
        return submit(["sbatch"], self.script(words), "slurm", dry_run=self.dry_run)

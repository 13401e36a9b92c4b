"""`t2t launch slurm`: a batch script of one task a GPU that saves before its time is over and goes on in the queue."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from t2t.errors import UserError
from t2t.launch.launchers.templates import check_plain, render
from t2t.limits import Configuration, Few, FewOrZero, Parts, Seconds
from t2t.paths import LocalPath

_MEMORY = re.compile(r"0|[1-9]\d{0,8}[KMGT]?")
_TIME = re.compile(r"(\d+-)?\d+(:\d\d){0,2}|UNLIMITED")


@dataclass(frozen=True, kw_only=True)
class Slurm(Configuration):
    """Submit a training to SLURM, or with --dry-run print the batch script.

    Each GPU has a process. Before the time limit, and when the job is preempted, the training saves and ends with code 75; the job is then
    put in the queue again and goes on from the checkpoint. The environment this command runs in must be there on the nodes.

    Args:
        nodes: how many.
        gpus_per_node: GPUs, and processes, on each; 0 trains on CPUs.
        tasks_per_node: processes on each node where there are no GPUs.
        cpus_per_task: cores for each process, which reads its data with them.
        memory: of each node, as SLURM spells it (64G).
        time: limit of one run of the job, as SLURM spells it; what is not done by then goes on in the next.
        signal_before: seconds before the limit at which the training is told to save.
        wait: seconds after the first process has ended at which the others are killed.
        heartbeat: seconds without a sign of life after which a process counts as dead.
        name: of the job.
        output: file for what is printed, with SLURM's patterns (%x the name, %j the job); restarts append.
        partition: SLURM's --partition.
        account: SLURM's --account.
        qos: SLURM's --qos.
        constraint: SLURM's --constraint.
        setup: lines of shell before the start ("module load cuda").
        chdir: directory to run in; the present one by default.
        dry_run: print the script, submit nothing.
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
        """Refuse what cannot be. Raises UserError."""
        for name in ("name", "output", "partition", "account", "qos"):
            check_plain(getattr(self, name), f"--{name}", "slurm")
        if self.memory is not None and not _MEMORY.fullmatch(self.memory):
            digits = re.search(r"[1-9]\d*", self.memory)
            raise UserError(
                f"t2t launch slurm: --memory {self.memory!r} is no amount of memory: a whole number with K, M, G or T behind it, or 0 for all"
                f" of a node's. Nearest: {digits[0] if digits else 64}G."
            )
        if self.constraint is not None and not re.fullmatch(r"[A-Za-z0-9_.&|*()\[\],-]+", self.constraint):
            raise UserError(
                f"t2t launch slurm: --constraint {self.constraint!r} is no constraint. Nearest: a feature's name."
            )
        if not _TIME.fullmatch(self.time):
            raise UserError(f"t2t launch slurm: --time {self.time!r} is no time. Nearest: 24:00:00 or 1-00:00:00.")
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise UserError(
                f"t2t launch slurm: --tasks-per-node {self.tasks_per_node}: each of the {self.gpus_per_node} GPUs (--gpus-per-node) has a process."
                f" Nearest: {self.gpus_per_node}."
            )

    def script(self, words: Sequence[str]) -> str:
        """Return the batch script that runs `t2t WORDS`. Raises UserError for options that cannot be."""
        self.check()
        values = {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "tasks_per_node": self.gpus_per_node or self.tasks_per_node or 1,
            "chdir": self.chdir or os.getcwd(),
            "command": shlex.join([sys.executable, "-m", "t2t.launch", *words]),
        }
        return render("slurm.sh.jinja", **values)

    def launch(self, words: Sequence[str]) -> int:
        """Submit the script, or print it, and return the exit code. Raises UserError where SLURM refuses it."""
        script = self.script(words)
        if self.dry_run:
            print(script, end="")
            return 0
        try:
            done = subprocess.run(["sbatch"], input=script, capture_output=True, text=True)
        except FileNotFoundError:
            raise UserError(
                "t2t launch slurm: there is no sbatch here. Nearest: --dry-run, which prints the script."
            ) from None
        if done.returncode:
            raise UserError(f"t2t launch slurm: sbatch refused it: {done.stderr.strip() or done.stdout.strip()}")
        print(done.stdout.strip())
        return 0

"""`t2t launch tpu-vm`: the gcloud commands for all hosts of a TPU slice, or a SkyPilot file."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from t2t.errors import UserError, nearest
from t2t.launch.launchers import tracked
from t2t.launch.launchers.templates import check_dns, check_plain, render
from t2t.launch.launchers.tpu import RUNTIMES, TYPES
from t2t.limits import Configuration, CountOrZero
from t2t.paths import LocalPath


@dataclass(frozen=True, kw_only=True)
class TpuVm(Configuration):
    """Run the gcloud commands that make a TPU slice, install this stack on all its hosts and train; with --dry-run print them.

    The run directory is one that all hosts share: mount a file store, or a bucket with gcsfuse, in --setup. --form skypilot writes a file for
    SkyPilot's managed jobs instead, which also starts again on another slice where a spot slice is taken away.

    Args:
        name: of the slice.
        type: accelerator type, as v5litepod-16, v5p-32 or v6e-64.
        zone: Google Cloud's zone; gcloud's own by default.
        project: Google Cloud's project; gcloud's own by default.
        runtime: software version of the hosts; by default the one for the type.
        spot: take a slice that may be taken away.
        source: a clone of this repository. The files that git tracks are copied to the hosts, as they are now, and nothing else.
        setup: lines of shell on each host after the installation (mounting the run directory's place).
        restarts: how often SkyPilot starts again.
        form: gcloud or skypilot.
        dry_run: print, start nothing.
    """

    name: str = "t2t"
    type: str = "v5litepod-16"
    zone: str | None = None
    project: str | None = None
    runtime: str | None = None
    spot: bool = False
    source: LocalPath = "."
    setup: tuple[str, ...] = ()
    restarts: CountOrZero = 10
    form: Literal["gcloud", "skypilot"] = "gcloud"
    dry_run: bool = False

    def check(self, words: Sequence[str] = ()) -> str:
        """Refuse what cannot be; return the TPU's generation. Raises UserError."""
        check_dns(self.name, "--name", "tpu-vm")
        check_dns(self.zone, "--zone", "tpu-vm")
        check_dns(self.project, "--project", "tpu-vm")
        check_plain(self.runtime, "--runtime", "tpu-vm")
        begin, _, size = self.type.partition("-")
        if begin not in TYPES or not size.isdigit() or int(size) < 1:
            near = nearest(self.type, [f"{name}-16" for name in TYPES])
            raise UserError(f"t2t launch tpu-vm: --type {self.type!r} is no accelerator type.{near}")
        if not (Path(self.source) / "setup.py").is_file():
            raise UserError(
                f"t2t launch tpu-vm: --source {self.source!r} is not this repository: it has no setup.py. Nearest: the checkout's root."
            )
        tracked.check(self.source, words, "t2t launch tpu-vm")
        return TYPES[begin]

    def text(self, words: Sequence[str]) -> str:
        """Return the commands, or SkyPilot's file, that run `t2t WORDS` on all hosts. Raises UserError for options that cannot be."""
        generation = self.check(words)
        sky = self.form == "skypilot"
        there = "." if sky else tracked.SHIPPED
        install = [
            "set -e",
            *([] if sky else [f"rm -rf {there} && mkdir {there} && tar -C {there} -xf {there}.tar"]),
            # The images' own Python may be older than this stack needs.
            "python3 -m pip install --quiet --user uv",
            "~/.local/bin/uv venv --quiet --allow-existing --python 3.12 ~/t2t-env",
            f"~/.local/bin/uv pip install --quiet --python ~/t2t-env -c {there}/constraints.txt '{there}[tpu]'",
            *self.setup,
        ]
        train = f"T2T_CLUSTER=tpu JAX_PLATFORMS=tpu,cpu ~/t2t-env/bin/python -m t2t.launch {shlex.join(words)}"
        place = f"{f' --zone={self.zone}' if self.zone else ''}{f' --project={self.project}' if self.project else ''}"
        values = {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "accelerator_type": self.type,
            "runtime": self.runtime or RUNTIMES[generation],
            "there": there,
            "shipped": tracked.SHIPPED,
            "pack": tracked.pack(self.source),
            "place": place,
            "install": "\n".join(install),
            "command": train,
        }
        return render("skypilot.yaml.jinja" if sky else "tpu_vm.sh.jinja", **values)

    def launch(self, words: Sequence[str]) -> int:
        """Run the commands, or print them, and return the exit code. Raises UserError where there is nothing to run them with."""
        text = self.text(words)
        if self.dry_run:
            print(text, end="")
            return 0
        command = (
            ["bash", "-c", text]
            if self.form == "gcloud"
            else ["sky", "jobs", "launch", "--yes", "--name", self.name, "/dev/stdin"]
        )
        program = "gcloud" if self.form == "gcloud" else "sky"
        if subprocess.run(["bash", "-c", f"command -v {program}"], capture_output=True).returncode:
            raise UserError(
                f"t2t launch tpu-vm: there is no {program} here. Nearest: --dry-run, which prints what would be run."
            )
        if program == "gcloud":
            return subprocess.run(command).returncode
        with tempfile.TemporaryDirectory(prefix="t2t-") as folder:  # where the file's workdir is
            (Path(folder) / tracked.SHIPPED).mkdir()
            unpack = f"set -o pipefail; {tracked.pack(self.source)} | tar -C {folder}/{tracked.SHIPPED} -xf -"
            subprocess.run(["bash", "-c", unpack], check=True)
            return subprocess.run(command, cwd=folder, input=text, text=True).returncode

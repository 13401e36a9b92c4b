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
    """Run the gcloud commands that create a TPU slice, install this stack on all its hosts and train. With --dry-run, print them.

    All hosts must share the run directory: mount a file store, or a bucket with gcsfuse, in --setup. --form skypilot starts a managed job of
    SkyPilot instead, which also restarts on another slice if a spot slice is preempted.

    Args:
        name: name of the slice.
        type: accelerator type, for example v5litepod-16, v5p-32 or v6e-64.
        zone: zone of Google Cloud. Default: gcloud's zone.
        project: project of Google Cloud. Default: gcloud's project.
        runtime: software version of the hosts. Default: the version for the type.
        spot: use a spot slice, which can be preempted.
        source: a clone of this repository. Only the files that git tracks are copied to the hosts, in their current state.
        setup: shell lines to run on each host after the installation, for example to mount the run directory.
        restarts: maximum number of restarts by SkyPilot.
        form: gcloud or skypilot.
        dry_run: print the commands and start nothing.
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
        """Return the TPU's generation. Raises UserError for invalid options."""
        check_dns(self.name, "--name", "tpu-vm")
        check_dns(self.zone, "--zone", "tpu-vm")
        check_dns(self.project, "--project", "tpu-vm")
        check_plain(self.runtime, "--runtime", "tpu-vm")
        prefix, _, size = self.type.partition("-")
        if prefix not in TYPES or not size.isdigit() or int(size) < 1:
            near = nearest(self.type, [f"{name}-16" for name in TYPES])
            raise UserError(f"t2t launch tpu-vm: --type {self.type!r} is not an accelerator type.{near}")
        if not (Path(self.source) / "setup.py").is_file():
            raise UserError(
                f"t2t launch tpu-vm: --source {self.source!r} is not this repository: it has no setup.py. Nearest: the checkout's root."
            )
        tracked.check(self.source, words, "t2t launch tpu-vm")
        return TYPES[prefix]

    def text(self, words: Sequence[str]) -> str:
        """Return the commands, or SkyPilot's file, that run `t2t WORDS` on all hosts. Raises UserError for invalid options."""
        generation = self.check(words)
        sky = self.form == "skypilot"
        copied = "." if sky else tracked.SHIPPED
        install = [
            "set -e",
            *([] if sky else [f"rm -rf {copied} && mkdir {copied} && tar -C {copied} -xf {copied}.tar"]),
            # The image's Python can be too old for this stack.
            "python3 -m pip install --quiet --user uv",
            "~/.local/bin/uv venv --quiet --allow-existing --python 3.12 ~/t2t-env",
            f"~/.local/bin/uv pip install --quiet --python ~/t2t-env -c {copied}/constraints.txt '{copied}[tpu]'",
            *self.setup,
        ]
        train = f"T2T_CLUSTER=tpu JAX_PLATFORMS=tpu,cpu ~/t2t-env/bin/python -m t2t.launch {shlex.join(words)}"
        place = f"{f' --zone={self.zone}' if self.zone else ''}{f' --project={self.project}' if self.project else ''}"
        values = {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "accelerator_type": self.type,
            "runtime": self.runtime or RUNTIMES[generation],
            "copied": copied,
            "shipped": tracked.SHIPPED,
            "pack": tracked.pack(self.source),
            "place": place,
            "install": "\n".join(install),
            "command": train,
        }
        return render("skypilot.yaml.jinja" if sky else "tpu_vm.sh.jinja", **values)

    def launch(self, words: Sequence[str]) -> int:
        """Run or print the commands, and return the exit code. Raises UserError if gcloud or sky is not installed."""
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
                f"t2t launch tpu-vm: {program} is not installed. Nearest: --dry-run, which prints the commands."
            )
        if program == "gcloud":
            return subprocess.run(command).returncode
        with tempfile.TemporaryDirectory(prefix="t2t-") as folder:  # contains the workdir of SkyPilot's file
            (Path(folder) / tracked.SHIPPED).mkdir()
            unpack = f"set -o pipefail; {tracked.pack(self.source)} | tar -C {folder}/{tracked.SHIPPED} -xf -"
            subprocess.run(["bash", "-c", unpack], check=True)
            return subprocess.run(command, cwd=folder, input=text, text=True).returncode

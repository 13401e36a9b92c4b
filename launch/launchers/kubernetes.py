"""`t2t launch kubernetes`: a JobSet with one indexed pod per host and a headless service."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from t2t.errors import UserError
from t2t.launch.launchers.templates import check_dns, check_plain, render, submit
from t2t.launch.launchers.tpu import GKE, Slice
from t2t.limits import Configuration, CountOrZero, FewOrZero, Parts, Range, Seconds
from t2t.paths import LocalPath

_MEMORY = re.compile(r"[1-9]\d{0,14}(\.\d+)?([kMGTPE]|[KMGTPE]i)?")
_LABEL = re.compile(
    r"([A-Za-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?=[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
)


@dataclass(frozen=True, kw_only=True)
class Kubernetes(Configuration):
    """Create a JobSet on Kubernetes with kubectl. With --dry-run, print its manifest.

    Each host has one pod with one process, which uses all devices of the host. If a pod fails or its node is lost, all pods restart from the last
    checkpoint. On SIGTERM, the training saves first. The cluster needs JobSet (https://jobset.sigs.k8s.io), 0.6 or newer.

    Args:
        name: name of the JobSet.
        image: container image in which `python -m t2t.launch` runs.
        volume_claim: persistent volume claim with access mode ReadWriteMany, which keeps the run directory.
        mount: mount path of the volume in the pods. The --dir of the training must be inside it.
        hosts: number of pods. For a TPU, the default follows from the topology.
        gpus_per_host: GPUs per host; 0 trains on CPUs.
        tpu: TPU slice on GKE instead of GPUs, for example v5e:4x4.
        slices: number of TPU slices.
        cpus: CPU cores to request per host.
        memory: memory to request per host, in Kubernetes notation (64Gi).
        node_selector: node labels, each KEY=VALUE (cloud.google.com/gke-accelerator=nvidia-h100-80gb).
        restarts: maximum number of restarts.
        grace: seconds between SIGTERM and SIGKILL, the time to save.
        heartbeat: seconds without a heartbeat after which a process counts as dead.
        port: port of process 0, to which the other processes connect.
        namespace: namespace of the JobSet. Default: kubectl's namespace.
        priority_class: priority class of the pods.
        service_account: service account of the pods.
        queue: local queue of Kueue.
        dry_run: print the manifest and create nothing.
    """

    name: str = "t2t"
    image: str | None = None
    volume_claim: str | None = None
    mount: LocalPath = "/runs"
    hosts: Parts | None = None
    gpus_per_host: FewOrZero = 8
    tpu: str | None = None
    slices: Parts = 1
    cpus: Parts | None = None
    memory: str | None = None
    node_selector: tuple[str, ...] = ()
    restarts: CountOrZero = 100
    grace: Seconds = 300
    heartbeat: Seconds = 8
    port: Annotated[int, Range(1024, 65535)] = 8476
    namespace: str | None = None
    priority_class: str | None = None
    service_account: str | None = None
    queue: str | None = None
    dry_run: bool = False

    def check(self, words: Sequence[str]) -> None:
        """Raise UserError for invalid options."""
        for name in ("name", "volume_claim", "namespace", "priority_class", "service_account", "queue"):
            check_dns(getattr(self, name), f"--{name.replace('_', '-')}", "kubernetes")
        for name in ("image", "mount"):
            check_plain(getattr(self, name), f"--{name}", "kubernetes")
        if self.memory is not None and not _MEMORY.fullmatch(self.memory):
            digits = re.search(r"[1-9]\d*", self.memory)
            raise UserError(
                f"t2t launch kubernetes: --memory {self.memory!r} is not a memory size in Kubernetes notation. Nearest: {digits[0] if digits else 64}Gi."
            )
        if self.image is None:
            raise UserError("t2t launch kubernetes: --image REGISTRY/NAME:TAG is missing: it names the container image")
        if self.volume_claim is None:
            raise UserError(
                "t2t launch kubernetes: --volume-claim NAME is missing: it names the persistent volume claim that keeps the run; a pod's disk is temporary"
            )
        for label in self.node_selector:
            if not _LABEL.fullmatch(label):
                raise UserError(
                    f"t2t launch kubernetes: --node-selector {label!r} is not KEY=VALUE. Nearest: cloud.google.com/gke-accelerator=nvidia-h100-80gb."
                )
        if self.slices > 1 and self.tpu is None:
            raise UserError(
                f"t2t launch kubernetes: --slices {self.slices} needs --tpu: only TPUs have slices. Nearest: --hosts {self.slices}."
            )
        _check_directory(words, self.mount)

    def manifest(self, words: Sequence[str]) -> str:
        """Return the manifest of a JobSet that runs `t2t WORDS`. Raises UserError for invalid options."""
        self.check(words)
        selectors = [tuple(label.split("=", 1)) for label in self.node_selector]
        hosts, limits = self.hosts or 1, {}
        if self.tpu is not None:
            slice_ = Slice.parse(self.tpu, "t2t launch kubernetes: --tpu")
            hosts = self.hosts or slice_.hosts
            if slice_.chips % hosts:
                raise UserError(
                    f"t2t launch kubernetes: --hosts {hosts} does not divide the {slice_.chips} chips of --tpu {self.tpu}. Nearest: {slice_.hosts}."
                )
            limits["google.com/tpu"] = slice_.chips // hosts
            selectors = [
                ("cloud.google.com/gke-tpu-accelerator", GKE[slice_.generation]),
                ("cloud.google.com/gke-tpu-topology", slice_.topology),
                *selectors,
            ]
        elif self.gpus_per_host:
            limits["nvidia.com/gpu"] = self.gpus_per_host
        requests: dict[str, Any] = {"cpu": self.cpus, "memory": self.memory}
        values = {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "hosts": hosts,
            "gpus_per_host": 0 if self.tpu else self.gpus_per_host,
            "selectors": selectors,
            "limits": limits,
            "requests": {name: value for name, value in requests.items() if value is not None},
            "command": ["python", "-m", "t2t.launch", *words],
        }
        return render("jobset.yaml.jinja", **values)

    def launch(self, words: Sequence[str]) -> int:
        """Create the JobSet or print its manifest, and return the exit code. Raises UserError if kubectl is missing or fails."""
        return submit(["kubectl", "create", "-f", "-"], self.manifest(words), "kubernetes", dry_run=self.dry_run)


def _check_directory(words: Sequence[str], mount: str) -> None:
    """Raise UserError if the run directory is outside the volume that the pods share."""
    directories = [word.partition("=")[2] for word in words if word.startswith("--dir=")]
    directories += [after for word, after in itertools.pairwise(words) if word == "--dir"]
    for directory in directories:
        if PurePosixPath(mount) not in PurePosixPath(directory).parents or ".." in PurePosixPath(directory).parts:
            name = PurePosixPath(directory).name or "run"
            raise UserError(
                f"t2t launch kubernetes: --dir {directory!r} is not in the volume that the pods share, --mount {mount}. Nearest: {mount}/{name}."
            )

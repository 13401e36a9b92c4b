"""The scripts and manifests of the launchers: they parse, say what was asked for, and refuse what cannot be."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from t2t.distributed.environment import place
from t2t.launch.main import run

ROOT = Path(__file__).parents[2]
TRAIN = ["train", "t5:1.1-xl", "--dir", "/runs/it's a", "--import", "my.py"]


def printed(capsys, *words: str) -> str:
    assert run(["launch", *words, "--dry-run", "--", *TRAIN]) == 0
    return capsys.readouterr().out


def sbatch_options(script: str) -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", script, re.M)
    assert len(found) == script.count("#SBATCH")
    return dict(found)


def test_slurm_script(capsys):
    words = "slurm --nodes 4 --gpus-per-node 8 --cpus-per-task 12 --time 12:00:00 --partition big --account me --signal-before 120 --name xl"
    script = printed(capsys, *words.split(), "--setup", "module load 'cuda 13'", "--chdir", "/home/a b")
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""
    assert sbatch_options(script) == {
        "job-name": "xl",
        "nodes": "4",
        "ntasks-per-node": "8",
        "gpus-per-node": "8",
        "cpus-per-task": "12",
        "time": "12:00:00",
        "partition": "big",
        "account": "me",
        "output": "%x-%j.log",
        "open-mode": "append",
        "requeue": "",
        "signal": "USR1@120",
    }
    (start,) = [line for line in script.splitlines() if line.startswith("srun ")]
    assert shlex.split(start)[-len(TRAIN) :] == TRAIN
    assert "module load 'cuda 13'\n" in script
    assert "cd '/home/a b'" in script
    assert "JAX_PLATFORMS=cuda,cpu" in script
    # All #SBATCH lines come before the first command: SLURM reads no further.
    assert script.rindex("#SBATCH") < script.index("\ntrap ")


def test_slurm_script_for_cpus(capsys):
    script = printed(capsys, "slurm", "--gpus-per-node", "0", "--tasks-per-node", "2")
    assert sbatch_options(script)["ntasks-per-node"] == "2"
    assert "gpus" not in "".join(sbatch_options(script))
    assert "JAX_PLATFORMS=cpu" in script


@pytest.mark.parametrize(("code", "requeued"), [(75, True), (0, False), (1, False), (2, False)])
def test_slurm_script_puts_the_job_back_in_the_queue_only_when_it_was_stopped(code, requeued, capsys, tmp_path):
    """The script is run by bash; srun and scontrol are words that tell how they were called."""
    script = printed(capsys, "slurm", "--gpus-per-node", "0", "--chdir", str(tmp_path))
    asked = f'srun() {{ return {code}; }}\nscontrol() {{ echo scontrol "$@"; }}\nsleep() {{ :; }}\nSLURM_JOB_ID=7 SLURM_JOB_NODELIST=n1\n'
    done = subprocess.run(["bash"], input=asked + script, text=True, capture_output=True)
    assert done.returncode == code, done.stderr
    assert ("scontrol requeue 7" in done.stdout) == requeued


def jobset(capsys, *words: str) -> dict:
    return yaml.safe_load(
        printed(capsys, "kubernetes", "--image", "ghcr.io/you/t2t:1", "--volume-claim", "runs", *words)
    )


def check_job(manifest: dict) -> None:
    """The jobs in the JobSet are Kubernetes' own; their schema comes with the package kubernetes-validate, where it is installed."""
    validator = pytest.importorskip("kubernetes_validate")
    for replicated in manifest["spec"]["replicatedJobs"]:
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "job"},
            "spec": replicated["template"]["spec"],
        }
        validator.validate(job, "1.31", strict=True)


def test_jobset_for_gpus(capsys):
    manifest = jobset(
        capsys,
        "--hosts",
        "4",
        "--node-selector",
        "cloud.google.com/gke-accelerator=nvidia-h100-80gb",
        "--memory",
        "512Gi",
        "--grace",
        "90",
    )
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (job["completionMode"], job["completions"], job["parallelism"], job["backoffLimit"]) == ("Indexed", 4, 4, 0)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 90)
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "t2t.launch", *TRAIN]
    assert container["resources"] == {"requests": {"memory": "512Gi"}, "limits": {"nvidia.com/gpu": 8}}
    # What the pod of index 3 finds in its environment is a place that `initialise` understands.
    index = {"T2T_PROCESS": "3"}
    environment = {it["name"]: it["value"] for it in container["env"] if "value" in it} | index
    found = place(environment)
    assert (found.coordinator, found.processes, found.process) == ("t2t-worker-0-0.t2t:8476", 4, 3)
    assert manifest["spec"]["network"]["subdomain"] == "t2t"


def test_jobset_for_tpus(capsys):
    manifest = jobset(capsys, "--tpu", "v5e:4x4", "--slices", "2", "--namespace", "mine", "--queue", "research")
    (replicated,) = manifest["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 2
    job = replicated["template"]["spec"]
    assert job["completions"] == 4
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    environment = {it["name"]: it["value"] for it in pod["containers"][0]["env"]}
    assert place(environment).cluster == "tpu"
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "research"}


@pytest.mark.parametrize(
    "words",
    [
        ["--hosts", "2"],
        ["--gpus-per-host", "0"],
        ["--tpu", "v5p:2x2x4", "--cpus", "8", "--priority-class", "yes", "--service-account", "me"],
    ],
)
def test_the_jobsets_jobs_are_valid(words, capsys):
    check_job(jobset(capsys, *words))


def test_tpu_vm_commands(capsys):
    text = printed(
        capsys,
        "tpu-vm",
        "--source",
        str(ROOT),
        "--type",
        "v6e-64",
        "--zone",
        "us-east5-b",
        "--spot",
        "--setup",
        "mount it",
    )
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""
    words = shlex.split(text, comments=True)
    assert text.count("--zone=us-east5-b") == 6
    (train,) = [word.removeprefix("--command=") for word in words if "t2t.launch" in word]
    assert shlex.split(train)[-len(TRAIN) :] == TRAIN
    assert text.count("--worker=all") == 3
    assert "--runtime-version=v2-alpha-tpuv6e --spot" in text


def test_skypilot_file(capsys):
    task = yaml.safe_load(
        printed(
            capsys, "tpu-vm", "--source", str(ROOT), "--form", "skypilot", "--zone", "us-east5-b", "--restarts", "3"
        )
    )
    assert task["resources"] == {
        "infra": "gcp/*/us-east5-b",
        "accelerators": "tpu-v5litepod-16",
        "accelerator_args": {"runtime_version": "v2-alpha-tpuv5-lite"},
        "use_spot": False,
        "job_recovery": {"strategy": "FAILOVER", "max_restarts_on_errors": 3},
    }
    assert shlex.split(task["run"])[-len(TRAIN) :] == TRAIN


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A repository with tracked files, a changed one, a link, and files that git does not track; the current directory."""
    there = tmp_path / "a clone"
    (there / "models").mkdir(parents=True)
    (there / "setup.py").write_text("committed")
    (there / "models/it's.py").write_text("")
    (there / "link").symlink_to("models")
    (there / ".gitignore").write_text("secret.env\n")
    monkeypatch.chdir(there)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *words], check=True)
    (there / "setup.py").write_text("changed since")
    (there / "secret.env").write_text("KEY=1")
    (there / "own.py").write_text("")
    (there / "runs").mkdir()
    (there / "runs/big").write_text("")
    return there


def beneath(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


SENT = [".gitignore", "link", "models", "models/it's.py", "setup.py"]


@pytest.mark.parametrize("form", ["gcloud", "skypilot"])
def test_only_what_git_tracks_leaves_the_machine(form, clone, tmp_path, monkeypatch):
    """Programs of the clouds' names unpack what they are given, as the hosts would."""
    programs, hosts = tmp_path / "programs", tmp_path / "hosts"
    programs.mkdir()
    hosts.mkdir()
    (programs / "gcloud").write_text(
        "#!/bin/bash\n"
        f'case "$*" in *scp*) for word; do case $word in *.tar) cp "$word" {hosts}/t2t-source.tar;; esac; done;;\n'
        f'*mkdir*) cd {hosts}; for word; do case $word in --command=*) eval "$(echo "${{word#--command=}}" | grep mkdir)";; esac; done;;\n'
        "*describe*) echo ACTIVE;; esac\n"
    )
    (programs / "sky").write_text(f"#!/bin/bash\ncat > {hosts}/file\ncp -r t2t-source {hosts}\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    assert (
        run(["launch", "tpu-vm", "--source", str(clone), "--form", form, "--", "train", "t5:1.1-xl", "--dir", "r"]) == 0
    )
    assert beneath(hosts / "t2t-source") == SENT
    assert (hosts / "t2t-source/setup.py").read_text() == "changed since"
    assert (hosts / "t2t-source/link").is_symlink()
    if form == "skypilot":
        assert yaml.safe_load((hosts / "file").read_text())["workdir"] == "t2t-source"


def test_what_would_be_left_behind_is_told(clone, tmp_path, capsys):
    def said(*words: str, source: Path = clone) -> str:
        assert run(["launch", "tpu-vm", "--source", str(source), "--dry-run", "--", "train", *words]) == 2
        return capsys.readouterr().err

    assert "own.py is not tracked by git" in said("own.py:recipe", "--dir", "r")
    assert "own.py is not tracked by git" in said("t5:1.1-xl", "--import", "own.py", "--dir", "r")
    (tmp_path / "outside.py").write_text("")
    assert "is outside --source" in said("t5:1.1-xl", "--import", "../outside.py")
    (clone / "models/it's.py").unlink()
    assert "models/it's.py in --source" in said("t5:1.1-xl")
    shutil.rmtree(clone / ".git")
    assert "has no setup.py that git tracks" in said("t5:1.1-xl")


K8S = "kubernetes --image i --volume-claim runs"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("slurm --time tomorrow", "--time 'tomorrow' is not a time limit. Nearest: 24:00:00"),
        ("slurm --nodes 0", "nodes 0 (--nodes) is not a whole number from 1 to 65536. Nearest: 1"),
        (
            "slurm --memory lots",
            "--memory 'lots' is not a memory size: expected a whole number followed by K, M, G or T, or 0 for all memory of a node. Nearest: 64G.",
        ),
        (
            "slurm --memory 32X",
            "--memory '32X' is not a memory size: expected a whole number followed by K, M, G or T, or 0 for all memory of a node. Nearest: 32G.",
        ),
        (f"{K8S} --memory 32X", "--memory '32X' is not a memory size in Kubernetes notation. Nearest: 32Gi."),
        (f"{K8S} --port 80", "port 80 (--port) is not a whole number from 1024 to 65535. Nearest: 1024."),
        ("slurm --tasks-per-node 4", "each of the 8 GPUs (--gpus-per-node) has one process. Nearest: 8"),
        ("slurm --name a;b", "--name 'a;b' has characters that are not allowed in a script. Nearest: a-b"),
        ("slurm --gpus-per-nodes 4", "unknown option --gpus-per-nodes. Nearest: --gpus-per-node"),
        ("kubernetes --volume-claim runs", "--image REGISTRY/NAME:TAG is missing"),
        ("kubernetes --image i", "--volume-claim NAME is missing"),
        (
            f"{K8S} --name My_Run",
            "--name 'My_Run' is not a valid name: expected lower-case letters, digits and inner '-', starting with a letter, at most 40 characters. Nearest: my-run",
        ),
        (
            f"{K8S} --mount /elsewhere",
            "is not in the volume that the pods share, --mount /elsewhere. Nearest: /elsewhere/it's a",
        ),
        (f"{K8S} --tpu v5:4x4", "unknown TPU 'v5'. Nearest: v5p, v5e"),
        (f"{K8S} --tpu v5e:4x4x4", "a v5e has a topology of 2 axes. Nearest: v5e:2x2"),
        (f"{K8S} --tpu v5e:4x4 --hosts 3", "--hosts 3 does not divide the 16 chips of --tpu v5e:4x4. Nearest: 4"),
        (f"{K8S} --slices 2", "--slices 2 needs --tpu: only TPUs have slices. Nearest: --hosts 2"),
        (f"{K8S} --node-selector gpu", "--node-selector 'gpu' is not KEY=VALUE"),
        ("tpu-vm --type v5e-16", "--type 'v5e-16' is not an accelerator type. Nearest: v"),
        ("tpu-vm --source /", "--source '/' is not this repository"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(words, message, capsys):
    assert run(["launch", *words.split(), "--dry-run", "--", *TRAIN]) == 2
    written = capsys.readouterr()
    assert message in written.err
    assert written.out == ""
    assert len(written.err.splitlines()) == 1

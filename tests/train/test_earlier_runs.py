"""Runs that version 0.1.0 wrote (commit 4ae6c40) are resumed by the same command, on another mesh, with the losses that version had.

Each archive has a run of 10 steps on `reverse_words` and `expected.json`, the losses of the steps that followed.
"""

import json
import tarfile
from pathlib import Path

import pytest

from t2t.launch.main import run

EARLIER = Path(__file__).parent / "earlier"
OPTIONS = (
    "--steps 14 --log-every 1 --checkpoint-every 10 --eval-every 0 --evaluation.examples 4 --evaluation.length 8 --data.shards 2 --batch-size 4"
    " --data.inputs-length 32 --data.targets-length 32 --data.task reverse_words --evaluation.tasks reverse_words --mesh.data 4 --mesh.tensor 2"
)
STACK = "--model.{0}.layers 1 --model.{0}.embed 16 --model.{0}.heads 2 --model.{0}.mlp 32"


@pytest.mark.slow
@pytest.mark.parametrize(("family", "stacks"), [("t5", ("encoder", "decoder")), ("gpt", ("decoder",))])
def test_a_run_of_an_earlier_version_is_resumed_with_equal_losses(family, stacks, tmp_path):
    with tarfile.open(EARLIER / f"{family}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    directory = tmp_path / family
    before = (directory / "metrics.jsonl").read_text().splitlines()
    shape = " ".join(STACK.format(stack) for stack in stacks)
    assert run(["train", f"{family}:quickstart", "--dir", str(directory), *OPTIONS.split(), *shape.split()]) == 0
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()[len(before) :]]
    losses = {str(line["step"]): line["loss"] for line in lines if "loss" in line}
    assert losses == pytest.approx(json.loads((directory / "expected.json").read_text()), rel=1e-5)

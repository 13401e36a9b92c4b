"""`make test-memory`: cache, read and train on a corpus that is larger than the memory limit of a process.

    python -m tests.data.cached.larger_than_memory [GIGABYTES]

The files have at least GIGABYTES (default: 4). The limit is half of that, and no process may exceed it at any time. Prints the memory and time of each
step.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

    from t2t.data import Data

LENGTH = 16_384
TASK = "random_ids"


def register(examples: int) -> None:
    """Register a task of `examples` random texts of `LENGTH` ids. Each id takes at least one byte in any file format."""
    import seqio
    import tensorflow as tf

    from t2t.data.vocabularies import to_seqio
    from t2t.vocabularies import Bytes

    class Random(seqio.DataSource):
        supports_arbitrary_sharding = True

        def list_shards(self, split: str) -> list[str]:
            return ["all"]

        def get_dataset(self, split="train", shuffle=False, seed=None, shard_info=None, **unused) -> tf.data.Dataset:  # type: ignore[no-untyped-def]
            def ids(i: tf.Tensor) -> dict[str, tf.Tensor]:
                return {"targets": tf.random.stateless_uniform([LENGTH], tf.stack([i, 0]), 3, 259, tf.int32)}

            numbers = tf.data.Dataset.range(examples)
            return (numbers if shard_info is None else numbers.shard(shard_info.num_shards, shard_info.index)).map(ids)

    seqio.TaskRegistry.remove(TASK)
    seqio.TaskRegistry.add(
        TASK,
        source=Random(["train"], num_input_examples={"train": examples}),
        output_features={"targets": seqio.Feature(to_seqio(Bytes()))},
        preprocessors=[],
    )


def write(examples: int, out: str) -> None:
    """Cache the task on disk."""
    from t2t.data.cached.writing import cache

    register(examples)
    (made,) = cache(TASK, out)
    size = sum(shard.size for shard in made.splits["train"])
    assert size >= examples * LENGTH
    print(f"  {made.examples('train'):,} examples, {size / 1e9:.2f} GB of files", end="")


def data(out: str) -> Data:
    """Return the data configuration: whole texts in a random order over the whole corpus."""
    from t2t.data import Data

    return Data(task=TASK, inputs_length=1, targets_length=LENGTH - 1, batch_size=16, shards=8, seed=0, cached=out)


def read(examples: int, out: str) -> None:
    """Read every example once, and print the resident memory near the start and at the end."""
    before, after = resident_while_reading(examples, out)
    print(
        f"  all {examples:,} examples once; resident after 20 batches {before / 1e9:.2f} GB, at the end {after / 1e9:.2f} GB",
        end="",
    )


def resident_while_reading(examples: int, out: str) -> tuple[int, int]:
    """Read every example once. Return the resident memory of this process after 20 batches and at the end, in bytes."""
    from t2t.data.pipeline import batches

    register(examples)
    iterator = batches(data(out), "decoder", repeat=False)
    before = 0
    for step, _ in enumerate(iterator):
        if step == 20:
            before = resident()
    assert iterator.counts.examples == examples
    return before, resident()


def train(examples: int, out: str) -> None:
    """Train a small decoder for 200 steps, each on 16 texts drawn from the whole corpus."""
    from t2t.launch.main import run

    register(examples)
    asked = f"--data.task {TASK} --data.cached {out} --data.inputs-length 1 --data.targets-length 127 --data.shards 8"
    less = "--batch-size 16 --steps 200 --log-every 100 --eval-every 0 --checkpoint-every 100"
    # No evaluation: the memory of its compiled programs does not depend on the corpus.
    less += " --evaluation.tasks reverse_words --evaluation.examples 4 --evaluation.length 8"
    if run(["train", "gpt:quickstart", "--dir", f"{out}/run", *asked.split(), *less.split()]):
        raise SystemExit(1)


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main() -> None:
    """Run the three steps, each in its own process, and check that each stays within the limit."""
    corpus = float(sys.argv[1] if len(sys.argv) > 1 else 4) * 1e9
    examples = math.ceil(corpus / LENGTH)
    bound = corpus / 2
    with tempfile.TemporaryDirectory() as out:
        for step in (write, read, train):
            print(f"{step.__name__}:", end="", flush=True)
            began = time.monotonic()
            process = multiprocessing.get_context("spawn").Process(target=measured, args=(step, examples, out, bound))
            process.start()
            process.join()
            print(f", {time.monotonic() - began:.0f} s")
            if process.exitcode:
                raise SystemExit(f"{step.__name__} failed, or took more than the bound of {bound / 1e9:.2f} GB")


def measured(step: Callable[[int, str], None], examples: int, out: str, bound: float) -> None:
    """Run a step. Exit with code 1 if it used more memory than the limit."""
    from t2t.api.quiet import import_tensorflow

    import_tensorflow()
    step(examples, out)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"; at most {most / 1e9:.2f} GB of memory, of a bound of {bound / 1e9:.2f}", end="", flush=True)
    if most > bound:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

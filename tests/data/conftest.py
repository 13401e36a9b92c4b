"""In-memory tasks whose tokens identify their example."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import seqio
import tensorflow as tf

FIRST = 100
"""Example i consists of the token FIRST + i."""


def lengths(i: int) -> tuple[int, int]:
    """Return the number of tokens in the inputs and the targets of example i."""
    return 1 + i % 5, 1 + i % 3


class Tasks:
    """Register tasks and mixtures, and remove them afterwards."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def add(
        self,
        name: str,
        rows: list[dict[str, list]],
        *,
        splits: tuple[str, ...] = ("train", "validation"),
        preprocessors: tuple[Callable, ...] = (),
        **more,
    ) -> str:
        """Register a task over rows of ids. Other values (texts) are passed through."""
        ids = [key for key in rows[0] if isinstance(rows[0][key], list)] if rows else ["inputs", "targets"]

        def read(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
            def generate() -> tf.data.Dataset:
                columns = {
                    key: tf.ragged.constant([row[key] for row in rows], dtype=tf.int32, ragged_rank=1)
                    if key in ids
                    else [row[key] for row in rows]
                    for key in (rows[0] if rows else ())
                }
                if not rows:
                    return tf.data.Dataset.from_generator(
                        lambda: iter(()), output_signature={k: tf.TensorSpec([None], tf.int32) for k in ids}
                    )
                return tf.data.Dataset.from_tensor_slices(columns)

            dataset = generate()
            return dataset.shuffle(len(rows), seed=seed) if shuffle_files and rows else dataset

        return self.source(
            name, seqio.FunctionDataSource(read, splits), features=tuple(ids), preprocessors=preprocessors, **more
        )

    def source(
        self, name: str, source: seqio.DataSource, *, features=("inputs", "targets"), preprocessors=(), **more
    ) -> str:
        vocabulary = seqio.PassThroughVocabulary(size=100_000)
        self._names.append(name)
        seqio.TaskRegistry.add(
            name,
            source=source,
            output_features={key: seqio.Feature(vocabulary, add_eos=False) for key in features},
            preprocessors=list(preprocessors),
            **more,
        )
        return name

    def numbered(self, name: str, count: int, *, first: int = FIRST, **more) -> str:
        """Register a task whose example i has `lengths(i)` tokens `first + i`."""
        rows = [
            {
                "inputs": [first + i] * lengths(i)[0],
                "targets": [first + i] * lengths(i)[1],
                "targets_pretokenized": f"text {first + i}",
            }
            for i in range(count)
        ]
        return self.add(name, rows, **more)

    def mix(self, name: str, rates: dict[str, float]) -> str:
        self._names.append(name)
        seqio.MixtureRegistry.add(name, list(rates.items()))
        return name

    def remove(self) -> None:
        for name in self._names:
            seqio.TaskRegistry.remove(name)
            seqio.MixtureRegistry.remove(name)


@pytest.fixture
def tasks() -> Iterator[Tasks]:
    made = Tasks()
    yield made
    made.remove()

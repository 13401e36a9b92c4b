"""The inputs that all peers make alike, our models for them, and what is refused."""

import numpy as np
import pytest

from benchmarks import batches, compare
from benchmarks.cases import OPTIMIZERS, TRAIN, Case, train_cases
from benchmarks.peers import ours
from t2t.errors import UserError
from t2t.train.program import Program

T5 = Case(work="train", model="t5", scale="tiny", optimizer="adamw")


def test_packed_rows_have_the_tokens_of_unpacked_ones():
    for packed, whole in zip(batches.pair(T5, packed=True), batches.pair(T5, packed=False), strict=True):
        assert (packed.ids == whole.ids).all()
        assert (packed.ids >= batches.SPECIAL).all()
        assert (packed.segments.max(axis=1) == batches.PACKED).all()
        assert (whole.segments == 1).all()
        assert packed.tokens == whole.tokens == packed.ids.size


def test_positions_and_the_shift_begin_anew_with_each_example():
    packed = batches.pair(T5, packed=True)[0]
    for ids, positions, segments, shifted in zip(
        packed.ids, packed.positions, packed.segments, packed.shifted, strict=True
    ):
        for number in range(1, batches.PACKED + 1):
            own = segments == number
            assert (positions[own] == np.arange(own.sum())).all()
            assert (shifted[own] == np.concatenate([[0], ids[own][:-1]])).all()


@pytest.mark.parametrize("model", TRAIN)
def test_the_flops_are_of_the_batch_that_is_timed(model):
    case = Case(work="train", model=model, scale="tiny", optimizer="adafactor")
    wanted = ours.experiment(case)
    abstract = Program.of(wanted, wanted.mesh.build()).abstract_batch(has_types=model == "bert")
    made = ours.batch(case, packed=True)
    for side in ("encoder", "decoder"):
        shape = getattr(abstract, side)
        assert (shape and shape.ids.shape) == (getattr(made, side) and getattr(made, side).ids.shape)
    assert abstract.targets.shape == made.targets.shape


def test_cases_are_all_there_is_of_models_and_optimizers():
    names = [case.name for case in train_cases(TRAIN, OPTIMIZERS, "tiny")]
    assert len(set(names)) == len(TRAIN) * len(OPTIMIZERS)
    assert names[0] == "train: t5 adamw"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--cases", "gpt3"], "unknown 'gpt3' (--cases). Nearest: gpt2"),
        (["train", "--peers", "ours,transformer"], "Nearest: transformers"),
        (["decode", "--rows", "1,some"], "'some' (--rows)"),
        (["train", "--rounds", "0"], "--rounds 0 is less than 1. Nearest: 1."),
        (["train", "--peers", "transformers", "--environments", "nowhere"], "benchmarks.environments transformers"),
        (["data", "--peers", "ours", "--check"], "--check compares with transformers"),
    ],
)
def test_mistakes_are_refused_with_the_nearest(words, said, tmp_path):
    with pytest.raises(UserError) as refused:
        compare.run([*words, "--out", str(tmp_path / "x.json")])
    assert said in str(refused.value)

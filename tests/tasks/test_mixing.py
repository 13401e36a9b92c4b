from collections import Counter

import pytest
import seqio
import tensorflow as tf

from t2t import tasks
from t2t.errors import UserError
from t2t.vocabularies import Bytes

SIZES = {"tm_a": 40, "tm_b": 400, "tm_c": 4000}


@pytest.fixture(scope="module", autouse=True)
def sized():
    for name, size in SIZES.items():
        source = seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None, name=name, size=size: tf.data.Dataset.from_tensors(
                {"text": name}
            ).repeat(size),
            splits=["train"],
            num_input_examples={"train": size},
        )
        tasks.add(name, source=source, targets="text", replace=True)


def drawn(mixture, examples=2000):
    dataset = mixture.get_dataset({"targets": 16}, "train", shuffle=False, seed=1, num_epochs=None)
    return Counter(Bytes().decode(e["targets"].numpy()) for e in dataset.take(examples))


@pytest.mark.parametrize(
    ("given", "options", "rates"),
    [
        ({"tm_a": 1, "tm_b": 2, "tm_c": 5}, {}, [1, 2, 5]),
        (list(SIZES), {}, [40, 400, 4000]),
        (list(SIZES), {"cap": 400}, [40, 400, 400]),
        (list(SIZES), {"temperature": 2}, [40**0.5, 400**0.5, 4000**0.5]),
        (list(SIZES), {"cap": 1000, "temperature": 3}, [40 ** (1 / 3), 400 ** (1 / 3), 1000 ** (1 / 3)]),
    ],
)
def test_tasks_are_drawn_at_the_rates_of_t5(given, options, rates):
    mixture = tasks.mix("tm_mixture", given, replace=True, **options)
    assert [mixture.get_rate(tasks.find(name)) for name in SIZES] == pytest.approx(rates)
    counts, total = drawn(mixture), sum(rates)
    for name, rate in zip(SIZES, rates, strict=True):
        share = rate / total
        # Five standard deviations of a binomial.
        assert abs(counts[name] / 2000 - share) < 5 * (share * (1 - share) / 2000) ** 0.5


def test_mixtures_of_mixtures_keep_the_shares_within():
    tasks.mix("tm_inner", {"tm_a": 1, "tm_b": 3}, replace=True)
    outer = tasks.mix("tm_outer", {"tm_inner": 1, "tm_c": 1}, replace=True)
    counts = drawn(outer)
    assert counts["tm_c"] / 2000 == pytest.approx(0.5, abs=0.05)
    assert counts["tm_a"] / (counts["tm_a"] + counts["tm_b"]) == pytest.approx(0.25, abs=0.05)


def test_malformed_mixtures_are_refused():
    tasks.mix("tm_inner", {"tm_a": 1, "tm_b": 3}, replace=True)
    unsized = seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=["train"])
    tasks.add("tm_unsized", source=unsized, targets="text", replace=True)
    tasks.add("tm_other", source=unsized, targets="text", vocabulary=Bytes(extra_ids=3), replace=True)
    for call, message in [
        (lambda: tasks.mix("tm_x", {}), "expected task names"),
        (lambda: tasks.mix("tm_x", "tm_a"), "expected task names"),
        (lambda: tasks.mix("tm x", ["tm_a"]), "use only letters"),
        (lambda: tasks.mix("tm_a", ["tm_b"]), "a task of that name already exists"),
        (lambda: tasks.mix("tm_inner", ["tm_b"]), "a mixture of that name already exists; .*replace=True"),
        (lambda: tasks.mix("tm_x", {"tm_a": 0}), "rate 0 of 'tm_a'"),
        (lambda: tasks.mix("tm_x", {"tm_a": float("nan")}), "rate nan of 'tm_a'"),
        (lambda: tasks.mix("tm_x", {"tm_a": 1}, cap=3), "cap and temperature have no effect"),
        (lambda: tasks.mix("tm_x", ["tm_a"], cap=0), "cap=0"),
        (lambda: tasks.mix("tm_x", ["tm_a"], temperature=0), "temperature=0"),
        (lambda: tasks.mix("tm_x", ["tm_a", "tm_a"]), "names a task twice"),
        (lambda: tasks.mix("tm_x", ["tm_d"]), "unknown task or mixture 'tm_d'. Nearest: tm_"),
        (lambda: tasks.mix("tm_x", ["tm_inner", "tm_c"]), "'tm_inner' .* is a mixture"),
        (lambda: tasks.mix("tm_x", {"tm_a": 1, "copy_words": 1}), "need the same"),
        (lambda: tasks.mix("tm_x", {"tm_a": 1, "tm_other": 1}), "different vocabularies for 'targets'"),
    ]:
        with pytest.raises(UserError, match=message):
            call()
    mixture = tasks.mix("tm_x", ["tm_a", "tm_unsized"], replace=True)
    with pytest.raises(UserError, match="'tm_unsized': its source does not know"):
        mixture.get_rate(tasks.find("tm_unsized"))

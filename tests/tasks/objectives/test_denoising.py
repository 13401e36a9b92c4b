from collections import Counter
from functools import partial
from itertools import groupby

import numpy as np
import pytest
import seqio

from t2t.errors import UserError
from t2t.tasks.objectives import (
    deshuffling,
    dropped_tokens,
    masked_denoising,
    replaced_tokens,
    text_features,
    text_infilling,
)
from t2t.vocabularies import Bytes

WHOLE = [masked_denoising, partial(masked_denoising, replaced=0.1), deshuffling, text_infilling]
ALL = [*WHOLE, replaced_tokens, dropped_tokens]
NAMES = ["mass", "bert", "deshuffling", "infilling", "replaced", "dropped"]


def corrupted(objective, dataset, vocabulary, *, seed=0, inputs=64, targets=64, **parameters):
    with seqio.utils.map_seed_manager(seed):
        made = objective(dataset, {"inputs": inputs, "targets": targets}, text_features(vocabulary), **parameters)
    examples = [{k: e[k].tolist() for k in ("inputs", "targets")} for e in made.as_numpy_iterator()]
    for example in examples:
        assert len(example["inputs"]) <= inputs
        assert len(example["targets"]) <= targets
        assert example["inputs"].pop() == example["targets"].pop() == vocabulary.eos_id
    return examples


def rows(vocabulary, texts):
    return [vocabulary.encode(text) for text in texts]


def noise(length, rate):
    return min(max(round(length * rate), 1), length - 1) if length > 1 else 0


@pytest.mark.parametrize("objective", WHOLE, ids=NAMES[:4])
def test_the_targets_are_the_text(vocabulary, texts, tokenized, objective):
    wanted = rows(vocabulary, texts)
    examples = corrupted(objective, tokenized(wanted), vocabulary)
    assert [i for e in examples for i in e["targets"]] == [i for row in wanted for i in row]


@pytest.mark.parametrize("replaced", [0.0, 0.1, 1.0])
def test_masked_denoising_hides_the_exact_share_in_place(vocabulary, texts, tokenized, replaced):
    examples = corrupted(masked_denoising, tokenized(rows(vocabulary, texts)), vocabulary, replaced=replaced)
    masks = others = hidden = 0
    for example in examples:
        inputs, targets = example["inputs"], example["targets"]
        assert len(inputs) == len(targets)
        changed = [(i, t) for i, t in zip(inputs, targets, strict=True) if i != t]
        masks += sum(i == vocabulary.mask_id for i, _ in changed)
        others += sum(i != vocabulary.mask_id for i, _ in changed)
        hidden += noise(len(targets), 0.15)
        assert len(changed) <= noise(len(targets), 0.15)
        if not replaced:
            assert len(changed) == noise(len(targets), 0.15)
    # A token drawn in the place of another may be the same again.
    assert masks == pytest.approx(hidden * (1 - replaced), abs=3 * hidden**0.5 * (0 < replaced < 1))
    assert others >= 0.8 * replaced * hidden - 3 * hidden**0.5
    assert others == 0 or replaced


def test_replaced_tokens_come_back_in_their_place(vocabulary, texts, tokenized):
    wanted = rows(vocabulary, texts)
    lowest = vocabulary.size - vocabulary.extra_ids
    for seed in range(3):
        found = []
        for example in corrupted(replaced_tokens, tokenized(wanted), vocabulary, seed=seed, rate=0.3):
            sentinels = [i for i in example["inputs"] if i >= lowest]
            assert sentinels == [vocabulary.sentinel(i) for i in range(len(sentinels))]
            assert sentinels == [i for i in example["targets"] if i >= lowest]
            hidden, current = {}, None
            for token in example["targets"]:
                if token >= lowest:
                    current = hidden.setdefault(token, [])
                else:
                    current.append(token)
            assert all(hidden.values())
            text = [t for i in example["inputs"] for t in hidden.get(i, [i])]
            assert sum(map(len, hidden.values())) == noise(len(text), 0.3)
            found += text
        assert found == [i for row in wanted for i in row]


def test_independent_noise_has_runs_of_the_length_that_follows(tokenized):
    vocabulary = Bytes(extra_ids=400)
    ids = np.random.default_rng(0).integers(3, 259, 20 * 200).tolist()
    examples = corrupted(replaced_tokens, tokenized([ids]), vocabulary, inputs=201, targets=1000, rate=0.5)
    lowest = vocabulary.size - vocabulary.extra_ids
    runs = [len(list(run)) for e in examples for hidden, run in groupby(e["targets"], lambda i: i < lowest) if hidden]
    assert np.mean(runs) == pytest.approx(1 / (1 - 0.5), rel=0.1)


def test_dropped_tokens_are_the_targets_and_nothing_tells_where(vocabulary, texts, tokenized):
    wanted = rows(vocabulary, texts)
    examples = corrupted(dropped_tokens, tokenized(wanted), vocabulary, inputs=60, targets=20)
    assert Counter(i for e in examples for k in e for i in e[k]) == Counter(i for row in wanted for i in row)
    assert all(len(e["targets"]) == noise(sum(map(len, e.values())), 0.15) for e in examples)
    # Both features are used to the full where texts are long: 69 tokens of text leave 59 and drop 10.
    assert max(len(e["inputs"]) for e in examples) == 59


def test_dropped_tokens_and_the_rest_keep_their_order(tokenized):
    ids = list(range(3, 103))
    (example,) = corrupted(dropped_tokens, tokenized([ids]), Bytes(), inputs=128, targets=64)
    assert example["inputs"] == sorted(example["inputs"])
    assert example["targets"] == sorted(example["targets"])
    assert sorted(example["inputs"] + example["targets"]) == ids


def test_deshuffling_keeps_the_tokens_and_every_order_is_as_likely(vocabulary, texts, tokenized):
    for example in corrupted(deshuffling, tokenized(rows(vocabulary, texts)), vocabulary):
        assert Counter(example["inputs"]) == Counter(example["targets"])
    random = np.random.default_rng(0)
    triples = [random.permutation(np.arange(3, 200))[:3] for _ in range(1200)]
    examples = corrupted(deshuffling, tokenized(triples), Bytes())
    orders = Counter(tuple(e["targets"].index(i) for i in e["inputs"]) for e in examples)
    assert len(orders) == 6
    assert all(abs(count - 200) < 5 * 200**0.5 for count in orders.values())


def test_infilling_puts_a_mask_for_each_span(vocabulary, texts, tokenized):
    wanted = rows(vocabulary, texts)
    spans = hidden = 0
    for example in corrupted(text_infilling, tokenized(wanted), vocabulary):
        kept = [i for i in example["inputs"] if i != vocabulary.mask_id]
        size = len(example["targets"])
        assert len(kept) == size - noise(size, 0.3)
        rest = iter(example["targets"])
        assert all(i in rest for i in kept), "what is kept is in the text's order"
        assert not any(
            a == b == vocabulary.mask_id for a, b in zip(example["inputs"], example["inputs"][1:], strict=False)
        )
        spans += len(example["inputs"]) - len(kept)
        hidden += size - len(kept)
    assert hidden / spans == pytest.approx(3.0, rel=0.2)


def test_infilling_hides_spans_of_poissons_lengths_and_anywhere(tokenized):
    vocabulary = Bytes()
    ids = list(range(3, 203))
    lengths, first, last = Counter(), 0, 0
    examples = corrupted(text_infilling, tokenized([ids] * 60), vocabulary, inputs=201, targets=201)
    for example in examples:
        marks = [2, *example["inputs"], 203]
        for at, token in enumerate(marks):
            if token == vocabulary.mask_id:
                lengths[marks[at + 1] - marks[at - 1] - 1] += 1
        first += marks[1] == vocabulary.mask_id
        last += marks[-2] == vocabulary.mask_id
    total = sum(lengths.values())
    poisson = [np.exp(-3) * 3**k / np.prod(np.arange(1, k + 1)) for k in range(6)]
    for k, share in enumerate(poisson):  # the last span of a text is made to fit, one of about twenty
        assert lengths[k] / total == pytest.approx(share, abs=0.035), k
    assert first
    assert last


@pytest.mark.parametrize("objective", ALL, ids=NAMES)
def test_short_texts(tokenized, objective):
    vocabulary = Bytes()
    for size in range(4):
        ids = vocabulary.encode("abc"[:size])
        examples = corrupted(objective, tokenized([ids]), vocabulary)
        assert len(examples) == bool(size)


@pytest.mark.parametrize("objective", ALL, ids=NAMES)
def test_the_seed_decides(texts, tokenized, objective):
    vocabulary = Bytes()
    dataset = tokenized(rows(vocabulary, texts))
    first, again, other = (corrupted(objective, dataset, vocabulary, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("objective", ALL, ids=NAMES)
def test_no_room_is_refused(tokenized, objective):
    with pytest.raises(UserError, match=r"inputs_length=2, targets_length=1 are too short"):
        corrupted(objective, tokenized([[5, 6, 7]]), Bytes(), inputs=2, targets=1)


@pytest.mark.parametrize(
    ("objective", "parameters", "message"),
    [
        (masked_denoising, {"rate": 0.0}, r"rate=0.0 of masked_denoising: must be between 0 and 1"),
        (masked_denoising, {"replaced": 1.5}, r"replaced=1.5 of masked_denoising"),
        (replaced_tokens, {"rate": 1.0}, r"rate=1.0 of replaced_tokens"),
        (text_infilling, {"mean_span": float("inf")}, r"mean_span=inf of text_infilling"),
        (text_infilling, {"mean_span": float("nan")}, r"mean_span=nan of text_infilling"),
        (masked_denoising, {"rate": float("nan")}, r"rate=nan of masked_denoising"),
        (text_infilling, {"mean_span": 0.0}, r"mean_span=0.0 of text_infilling: must be above 0; BART uses 3"),
    ],
)
def test_parameters_out_of_range_are_refused(tokenized, objective, parameters, message):
    with pytest.raises(UserError, match=message):
        corrupted(objective, tokenized([[5, 6, 7]]), Bytes(), **parameters)


def test_what_a_vocabulary_lacks_is_told(tokenized):
    with pytest.raises(UserError, match=r"masked_denoising: .* has no mask"):
        corrupted(masked_denoising, tokenized([[5, 6, 7]]), Bytes(extra_ids=0))
    with pytest.raises(UserError, match=r"a sentinel for each hidden token; the vocabulary has 0"):
        corrupted(replaced_tokens, tokenized([[5, 6, 7]]), Bytes(extra_ids=0))

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t2t import tasks
from t2t.data.config import Data
from t2t.data.pipeline import batches, evaluation_batches
from t2t.data.registry import task_names
from t2t.decode import score_many
from t2t.errors import UserError
from t2t.tasks import Template
from t2t.tasks.generated import GeneratedSource, copy_words, parity
from t2t.tasks.sources.distractors import DistractorSource
from t2t.train.evaluation import Evaluation, evaluate
from t2t.vocabularies import Bytes
from tests.decode.toy import ToyEncoderConfig, make

SIZES = {"train": 40, "validation": 12}
TEMPLATES = [
    Template(name="Odd?", jinja="Is {{ inputs }} odd? ||| {{ ['no', 'yes'][(targets == 'odd') | int] }}", answer_choices="no ||| yes"),
    Template(name="only even", jinja="{% if targets == 'even' %}{{ inputs }} is: ||| {{ targets }}{% endif %}"),
]  # fmt: skip


@pytest.fixture(scope="module")
def source():
    return GeneratedSource("prompted", parity, sizes=SIZES)


@pytest.fixture(scope="module")
def mixture(source):
    return tasks.add_prompted("tp_parity", source=source, templates=TEMPLATES, cap=60, replace=True)


def data(task, **changes):
    return Data(task=task, **{"inputs_length": 40, "targets_length": 16, "batch_size": 4, "shards": 2, **changes})


def test_a_task_a_template_and_their_mixture(source, mixture):
    assert task_names("tp_parity") == ("tp_parity_odd", "tp_parity_only_even")
    assert [mixture.get_rate(task) for task in mixture.tasks] == [30, 30]  # min(40, 60 / 2)
    examples = [e for b in range(len(source.block_sizes("validation"))) for e in source.read_block("validation", b)]
    raws = [
        raw
        for _, some in evaluation_batches(data("tp_parity", split="validation"), "encoder_decoder", 4)
        for raw in some
    ]
    made = [(raw["inputs_pretokenized"].decode(), raw["targets_pretokenized"].decode()) for raw in raws]
    odd = [(f"Is {e['inputs']} odd?", "yes" if e["targets"] == "odd" else "no") for e in examples]
    even = [(f"{e['inputs']} is:", "even") for e in examples if e["targets"] == "even"]
    assert 0 < len(even) < len(odd)
    assert made == odd + even  # those of which the second template makes nothing are dropped
    assert [raw["choices"].tolist() if "choices" in raw else None for raw in raws] == [[b"no", b"yes"]] * 12 + [
        None
    ] * len(even)
    assert Bytes().decode(raws[0]["targets"].tolist()) == odd[0][1]


def test_training_on_prompts_resumes_where_it_was(mixture):
    whole = batches(data("tp_parity"), "decoder")
    for _ in range(3):
        next(whole)
    position = whole.position()
    ahead = [next(whole) for _ in range(12)]  # more than an epoch
    whole.close()
    resumed = batches(data("tp_parity"), "decoder")
    resumed.restore(position)
    for batch in ahead:
        np.testing.assert_array_equal(next(resumed).targets, batch.targets)
    resumed.close()


def test_fields_of_all_kinds_reach_the_template():
    columns = {
        "words": tf.ragged.constant([["a", "b"], ["c"]]),
        "deep": {"n": [3, 4], "x": [0.5, 1.5], "yes": [True, False]},
    }
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files=False, seed=None: tf.data.Dataset.from_tensor_slices(columns).map(lambda e: {**e, "words": e["words"][:]}),
        splits=["train"],
        num_input_examples={"train": 2},
    )  # fmt: skip
    template = Template(
        name="all", jinja="{{ words | join('+') }} {{ deep.n + 1 }} {{ deep.x }} ||| {{ 'p' if deep.yes else 'q' }}"
    )
    tasks.add_prompted("tp_fields", source=source, templates=[template], replace=True)
    found = tasks.find("tp_fields_all").get_dataset(None, "train", shuffle=False).as_numpy_iterator()
    assert [(e["inputs_pretokenized"], e["targets_pretokenized"]) for e in found] == [
        (b"a+b 4 0.5", b"p"),
        (b"c 5 1.5", b"q"),
    ]


def test_mistakes_are_told(source, mixture, tmp_path):
    def add(templates, **options):
        return tasks.add_prompted("tp_bad", source=source, templates=templates, replace=True, **options)

    with pytest.raises(UserError, match="no templates"):
        add([])
    with pytest.raises(UserError, match=r"cap=1 of mixture 'tp_bad'.*Nearest: 2"):
        add(TEMPLATES, cap=1)
    with pytest.raises(UserError, match=r"'ODD' would make task 'tp_bad_odd', as 'Odd\?' does"):
        add([TEMPLATES[0], Template(name="ODD", jinja="a ||| b")])
    with pytest.raises(UserError, match="name 'tp_parity': a mixture of that name already exists"):
        tasks.add_prompted("tp_parity", source=source, templates=TEMPLATES)
    add([Template(name="field", jinja="{{ input }} ||| x"), Template(name="late", jinja="{{ inputs[9] }} ||| x")])
    with pytest.raises(
        UserError, match=r"template 'field' of task 'tp_bad_field': .* no field 'input'.*Nearest: inputs"
    ):
        next(iter(evaluation_batches(data("tp_bad_field", split="validation"), "decoder")))
    with pytest.raises(UserError, match=r"^task 'tp_bad_late': template 'late': .*no element 9"):
        next(iter(evaluation_batches(data("tp_bad_late", split="validation"), "decoder")))


def test_distractors_are_other_answers_of_the_same_split():
    origin = GeneratedSource("d", copy_words, sizes={"train": 300, "validation": 40})
    source = DistractorSource(origin, answer="targets", longest={"inputs": 40, "targets": 11}, window=5)
    answers = {
        split: {e["targets"] for b in range(len(origin.block_sizes(split))) for e in origin.read_block(split, b)}
        for split in ("train", "validation")
    }
    for split in ("train", "validation"):
        examples = [e for b in range(len(source.block_sizes(split))) for e in source.read_block(split, b)]
        assert len(examples) == source.num_input_examples(split)
        assert 0 < len(examples) < origin.num_input_examples(split)  # the long ones are left out
        for example in examples:
            listed = [example[f"choice_{letter}"] for letter in "abcd"]
            assert len(set(listed)) == 4
            assert set(listed) <= answers[split]
            assert listed[example["right"]] == example["targets"] == example["inputs"]
            assert (example["candidate"] == example["targets"]) == bool(example["fits"])
            assert example["candidate"] in listed
        again = DistractorSource(origin, answer="targets", longest={"inputs": 40, "targets": 11}, window=5)
        assert again.read_block(split, 0) == source.read_block(split, 0)
    assert {e["right"] for e in examples} == {0, 1, 2, 3}
    few = GeneratedSource("few", parity, sizes={"train": 30})
    with pytest.raises(UserError, match="has only 2 different answers, but needs 4"):
        DistractorSource(few, answer="targets", longest={"targets": 9}).read_block("train", 0)
    pairs = DistractorSource(few, answer="targets", longest={"targets": 9}, choices=2, window=1).read_block("train", 0)
    assert all(
        {e["choice_a"], e["choice_b"]} == {"odd", "even"} for e in pairs
    )  # the window grows until there is another


def test_what_is_held_out_is_held_out():
    tasks.check_held_out("multitask", "multitask_held_out")
    tasks.mix("tp_leak", {"multitask": 1, "docs_signature": 1}, replace=True)
    with pytest.raises(
        UserError, match=r"'docs_which_summary_\w+' .* not held out: task 'docs_signature' .* same source"
    ):
        tasks.check_held_out("tp_leak", "docs_which_summary")
    with pytest.raises(UserError, match="'parity' of 'parity' is not held out: task 'prompted_parity_which' of"):
        tasks.check_held_out("prompted_parity_which", "parity")
    with pytest.raises(UserError, match="'parity' is not held out: 'parity' contains it too"):
        tasks.check_held_out("parity", "parity")


@pytest.mark.parametrize("name", ["docs_which_summary_options", "docs_describes_belongs", "prompted_word_order_sorted"])
def test_held_out_tasks_offer_choices_and_none_is_trimmed_at_512_bytes(name):
    assert name in task_names("multitask_held_out")
    asked = data(name, split="validation", inputs_length=512, targets_length=128)
    read = evaluation_batches(asked, "encoder_decoder", 8, examples=8)
    raws = [raw for _, some in read for raw in some]
    assert len(raws) == 8
    assert read.counts.trimmed == 0
    assert all(raw["targets_pretokenized"] in raw["choices"].tolist() for raw in raws)
    assert len({raw["targets_pretokenized"] for raw in raws}) > 1


def test_an_encoders_choices_are_ranked_in_place_of_masks():
    """The variant for encoders: the same prompt, and each choice scored with a mask for each of its tokens."""
    model, params = make(ToyEncoderConfig(vocab_size=384))
    asked = data("prompted_parity_which_fill_mask", split="validation", inputs_length=64)
    (result,) = evaluate(model, params, Evaluation(examples=6, batch_size=4), asked)
    assert len(result.predictions) == 6
    vocabulary = Bytes()
    for row in result.predictions:
        assert row["inputs"].startswith("Is ")
        before = vocabulary.encode(row["inputs"])
        answers = [[*vocabulary.encode(choice), vocabulary.eos_id] for choice in ("even", "odd")]
        scores = score_many(model, params, [before] * 2, answers, mask_id=vocabulary.mask_id)
        np.testing.assert_allclose(list(row["choice_scores"].values()), scores, rtol=1e-5)
    right = [row["choice"] == row["targets"] for row in result.predictions]
    assert result.metrics["rank_accuracy"] == np.mean(right)

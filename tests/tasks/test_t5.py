import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from t2t.tasks import metrics, t5
from t2t.tasks.register import describe, find, format_of

PRETRAINING = [
    "c4_span_corruption",
    "c4_prefix_lm",
    "c4_continuation",
    "c4_causal_lm",
    "c4_full_lm",
    "c4_masked_lm",
    "c4_masked_lm_20",
    "c4_masked_lm_30",
    "c4_bart",
    "c4_electra",
    "c4_electra_25",
]
SUPERVISED = [
    *t5.GLUE_SIZES,
    "glue_mnli_mismatched",
    "glue_wnli",
    *t5.SUPER_GLUE_SIZES,
    *t5.OTHER_SIZES,
]
LENGTHS = {"inputs": 256, "targets": 64}

# Each as the dataset has it -> the text that the prefixes and rules of T5's released code make of it.
EXAMPLES = {
    "glue_cola": (
        {"sentence": "John made Bill master of himself.", "label": 1, "idx": 0},
        "cola sentence: John made Bill master of himself.",
        "acceptable",
    ),
    "glue_rte": (
        {
            "sentence1": "A smaller proportion of Yugoslavia's Italians were settled in Slovenia (at the 1991 national "
            "census, some 3000 inhabitants of Slovenia declared themselves as ethnic Italians).",
            "sentence2": "Slovenia has 3,000 inhabitants.",
            "label": 1,
            "idx": 0,
        },
        "rte sentence1: A smaller proportion of Yugoslavia's Italians were settled in Slovenia (at the 1991 national "
        "census, some 3000 inhabitants of Slovenia declared themselves as ethnic Italians). sentence2: Slovenia has "
        "3,000 inhabitants.",
        "not_entailment",
    ),
    "glue_mnli": (
        {
            "hypothesis": "The St. Louis Cardinals have always won.",
            "premise": "yeah well losing is i mean i'm i'm originally from Saint Louis and Saint Louis Cardinals when "
            "they were there were uh a mostly a losing team but",
            "label": 2,
            "idx": 0,
        },
        "mnli hypothesis: The St. Louis Cardinals have always won. premise: yeah well losing is i mean i'm i'm "
        "originally from Saint Louis and Saint Louis Cardinals when they were there were uh a mostly a losing team but",
        "contradiction",
    ),
    "glue_mrpc": (
        {
            "sentence1": "We acted because we saw the existing evidence in a new light.",
            "sentence2": "Rather, the US acted because the administration saw existing evidence in a new light.",
            "label": 1,
            "idx": 0,
        },
        "mrpc sentence1: We acted because we saw the existing evidence in a new light. sentence2: Rather, the US acted "
        "because the administration saw existing evidence in a new light.",
        "equivalent",
    ),
    "glue_qnli": (
        {
            "question": "Where did Jebe die?",
            "sentence": "Genghis Khan recalled Subutai back to Mongolia soon afterwards, and Jebe died on the road back "
            "to Samarkand.",
            "label": 0,
            "idx": 0,
        },
        "qnli question: Where did Jebe die? sentence: Genghis Khan recalled Subutai back to Mongolia soon afterwards, "
        "and Jebe died on the road back to Samarkand.",
        "entailment",
    ),
    "glue_qqp": (
        {
            "question1": "What attributes would have made you highly desirable in ancient Rome?",
            "question2": "How I GET OPPERTINUTY TO JOIN IT COMPANY AS A FRESHER?",
            "label": 0,
            "idx": 0,
        },
        "qqp question1: What attributes would have made you highly desirable in ancient Rome? question2: How I GET "
        "OPPERTINUTY TO JOIN IT COMPANY AS A FRESHER?",
        "not_duplicate",
    ),
    "glue_sst2": (
        {
            "sentence": "it confirms fincher 's status as a film maker who artfully bends technical know-how to the "
            "service of psychological insight . ",
            "label": 1,
            "idx": 0,
        },
        "sst2 sentence: it confirms fincher 's status as a film maker who artfully bends technical know-how to the "
        "service of psychological insight . ",
        "positive",
    ),
    "glue_stsb": (
        {
            "sentence1": "Representatives for Puretunes could not immediately be reached for comment Wednesday.",
            "sentence2": "Puretunes representatives could not be located Thursday to comment on the suit.",
            "label": np.float32(3.25),
            "idx": 0,
        },
        "stsb sentence1: Representatives for Puretunes could not immediately be reached for comment Wednesday. "
        "sentence2: Puretunes representatives could not be located Thursday to comment on the suit.",
        "3.2",
    ),
    "super_glue_cb": (
        {"hypothesis": "Valence was helping", "premise": "Valence the void-brain.", "label": 1, "idx": 0},
        "cb hypothesis: Valence was helping premise: Valence the void-brain.",
        "contradiction",
    ),
    "super_glue_copa": (
        {
            "choice1": "Many citizens relocated to the capitol.",
            "choice2": "Many citizens took refuge in other territories.",
            "premise": "Political violence broke out in the nation.",
            "question": "effect",
            "label": 1,
            "idx": 0,
        },
        "copa choice1: Many citizens relocated to the capitol. choice2: Many citizens took refuge in other territories. "
        "premise: Political violence broke out in the nation. question: effect",
        "choice2",
    ),
    "super_glue_boolq": (
        {"passage": "Barq's is a root beer.", "question": "is barq's a root beer", "label": 1, "idx": 0},
        "boolq passage: Barq's is a root beer. question: is barq's a root beer",
        "True",
    ),
    "super_glue_wic": (
        {
            "sentence1": "It was the deliberation of his act that was insulting .",
            "sentence2": "The deliberations of the jury .",
            "word": "deliberation",
            "label": 0,
            "idx": 0,
        },
        "wic sentence1: It was the deliberation of his act that was insulting . sentence2: The deliberations of the "
        "jury . word: deliberation",
        "False",
    ),
    "super_glue_multirc": (
        {
            "question": "Why was Joey surprised?",
            "answer": "There was only pie to eat",
            "paragraph": "<b>Sent 1: </b>Once upon a time, there was a squirrel named Joey.<br><b>Sent 2: </b>Joey "
            "loved to go outside.<br>",
            "label": 1,
            "idx": {"paragraph": 5, "question": 2, "answer": 0},
        },
        "multirc question: Why was Joey surprised? answer: There was only pie to eat paragraph: Sent 1: Once upon a "
        "time, there was a squirrel named Joey. Sent 2: Joey loved to go outside. ",
        "True",
    ),
    "super_glue_record": (
        {
            "query": "A @placeholder is a bird.",
            "entities": ["penguin", "potato", "pigeon"],
            "answers": ["pigeon", "penguin"],
            "passage": "It was seen.\n@highlight\nMany flew\n@highlight\nSome swam",
            "idx": {"passage": 1, "query": 7},
        },
        "record query: A @placeholder is a bird. entities: penguin, potato, pigeon passage: It was seen. Many flew. "
        "Some swam",
        "pigeon",
    ),
    "super_glue_wsc": (
        {
            "text": "The stable was very roomy, with four good stalls; a large swinging window opened into the yard , "
            "which made it pleasant and airy.",
            "span1_text": "The stable",
            "span2_text": "it",
            "span1_index": 0,
            "span2_index": 20,
            "label": 1,
            "idx": 0,
        },
        "wsc: The stable was very roomy, with four good stalls; a large swinging window opened into the yard , which "
        "made *it* pleasant and airy.",
        "The stable",
    ),
    "squad": (
        {
            "question": "What does increased oxygen concentrations in the patient's lungs displace?",
            "context": "Hyperbaric (high-pressure) medicine uses special oxygen chambers.",
            "answers": {"text": ["carbon monoxide", "monoxide"], "answer_start": np.array([1, 2], np.int32)},
            "title": "Oxygen",
            "id": "1",
        },
        "question: What does increased oxygen concentrations in the patient's lungs displace? context: Hyperbaric "
        "(high-pressure) medicine uses special oxygen chambers.",
        "carbon monoxide",
    ),
    "cnn_dailymail": (
        {"article": "marouane fellaini is keen to play.", "highlights": "the belgian trained on tuesday .", "id": "0"},
        "summarize: marouane fellaini is keen to play.",
        "the belgian trained on tuesday .",
    ),
    "wmt14_en_de": (
        {
            "en": '"Luigi often said to me that he never wanted the brothers to end up in court," she wrote.',
            "de": '"Luigi sagte oft zu mir, dass er nie wollte, dass die Brüder vor Gericht landen", schrieb sie.',
        },
        'translate English to German: "Luigi often said to me that he never wanted the brothers to end up in court," '
        "she wrote.",
        '"Luigi sagte oft zu mir, dass er nie wollte, dass die Brüder vor Gericht landen", schrieb sie.',
    ),
    "wmt14_en_fr": ({"en": "Good.", "fr": "Bon."}, "translate English to French: Good.", "Bon."),
    "wmt16_en_ro": (
        {
            "en": "Taco Bell said it plans to add 2,000 locations in the US by 2022.",
            "ro": "Taco Bell a afirmat că, până în 2022, intenționează să deschidă 2000 de restaurante în SUA.",
        },
        "translate English to Romanian: Taco Bell said it plans to add 2,000 locations in the US by 2022.",
        "Taco Bell a afirmat că, până în 2022, intenționează să deschidă 2000 de restaurante în SUA.",
    ),
}
for name, like in (
    ("glue_wnli", "glue_rte"),
    ("glue_mnli_mismatched", "glue_mnli"),
    ("super_glue_rte", "super_glue_cb"),
):
    example, inputs, _ = EXAMPLES[like]
    EXAMPLES[name] = (
        {**example, "label": 1},
        f"{format_of(find(name)).prefix}{inputs.split(' ', 1)[1]}",
        {"glue_wnli": "entailment", "glue_mnli_mismatched": "neutral", "super_glue_rte": "not_entailment"}[name],
    )


def formatted(name, examples, split="validation"):
    """The texts a task makes of examples of its dataset."""
    task = find(name)
    signature = tf.nest.map_structure(_spec, _arrays(examples[0]))
    dataset = tf.data.Dataset.from_generator(lambda: map(_arrays, examples), output_signature=signature)
    if isinstance(task.source, t5.Rewritten):
        dataset = task.source.rewrite(dataset, split)
    return list(format_of(task)(dataset).as_numpy_iterator())


def _spec(leaf):
    dtype = np.asarray(leaf).dtype
    return tf.TensorSpec([None] * np.ndim(leaf), tf.string if dtype.kind in "OU" else dtype)


def _arrays(example):
    if isinstance(example, dict):
        return {key: _arrays(value) for key, value in example.items()}
    return np.array(example, object) if isinstance(example, list) else example


@pytest.mark.parametrize("name", SUPERVISED)
def test_the_texts_are_those_of_t5s_rules(name):
    example, inputs, targets = EXAMPLES[name]
    made = formatted(name, [example])
    assert (made[0]["inputs"].decode(), made[0]["targets"].decode()) == (inputs, targets)


@pytest.mark.parametrize("name", [n for n in SUPERVISED if "glue" in n and format_of(find(n)).labels])
def test_class_words_are_the_datasets(name):
    config = find(name).source.tfds_dataset.name.split("/")[1].split(":")[0]
    builder = tfds.text.glue.Glue if name.startswith("glue") else tfds.text.super_glue.SuperGlue
    assert tuple(builder.builder_configs[config].label_classes) == format_of(find(name)).labels


def test_similarity_is_rounded_as_t5_does():
    labels = [0.0, 0.1, 0.099, 1.75, 2.5, 3.8, 4.9, 5.0]
    texts = [t5.similarity({"label": tf.constant(label)}).numpy().decode() for label in labels]
    assert texts == ["0.0", "0.0", "0.0", "1.8", "2.4", "3.8", "4.8", "5.0"]


def test_record_gives_every_answer_in_training_and_each_query_once_after():
    example, _, _ = EXAMPLES["super_glue_record"]
    assert [e["targets"] for e in formatted("super_glue_record", [example], "train")] == [b"pigeon", b"penguin"]
    hidden = formatted("super_glue_record", [{**example, "answers": np.array([], object)}], "test")
    assert [e["targets"] for e in hidden] == [b"<unk>"]
    (made,) = formatted("super_glue_record", [example])
    assert made["choices"].tolist() == [b"penguin", b"potato", b"pigeon"]
    target = t5.grouped_answers("pigeon", example=made, is_target=True)
    assert target == {"value": ["pigeon", "penguin"], "group": "1-7"}
    assert metrics.record([target], [t5.grouped_answers("The penguin", example=made)])["em"] == 100


def test_multirc_is_counted_by_question():
    (made,) = formatted("super_glue_multirc", [EXAMPLES["super_glue_multirc"][0]])
    assert t5.grouped("True", example=made, is_target=True) == {"value": "True", "group": "5-2"}
    assert t5.grouped("maybe", example=made) == {"value": "maybe"}


def test_squad_is_held_to_every_answer():
    (made,) = formatted("squad", [EXAMPLES["squad"][0]])
    targets = t5.all_answers("carbon monoxide", example=made, is_target=True)
    assert metrics.squad([targets], [t5.all_answers("Monoxide.", example=made)]) == {"em": 100, "f1": 100}


def wsc(**changed):
    return {**EXAMPLES["super_glue_wsc"][0], **changed}


def test_wsc_trains_on_true_referents_only():
    examples = [wsc(), wsc(label=0, span1_text="The yard")]
    assert [e["targets"] for e in formatted("super_glue_wsc", examples, "train")] == [b"The stable"]
    assert len(formatted("super_glue_wsc", examples, "validation")) == 2


def test_wsc_marks_the_pronoun():
    (made,) = formatted(
        "super_glue_wsc", [wsc(text='"Good for him," he said. He left.', span2_text="him", span2_index=2)]
    )
    assert made["inputs"].decode() == 'wsc: "Good for *him*," he said. He left.'
    (off,) = formatted("super_glue_wsc", [wsc(text="It rained . They might want to use it , but", span2_index=7)])
    assert off["inputs"].decode() == "wsc: It rained . They might want to use *it* , but"


@pytest.mark.parametrize(
    ("prediction", "referent", "expected"),
    [
        ("the stable", "The stable", "True"),
        ("stable", "The old stable", "True"),
        ("fuzzy bunny", "bunny", "True"),
        ("yard", "The stable", "False"),
        ("Bob", "Bob's hat", "False"),
        ("", "The stable", "False"),
        ("the", "The stable", "False"),
    ],
)
def test_wsc_takes_a_prediction_that_names_the_noun(prediction, referent, expected):
    example = {"label": 0, "span1_text": referent.encode()}
    assert t5.same_referent(prediction, example=example) == expected
    assert t5.same_referent("ignored", example=example, is_target=True) == "False"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PRETRAINING, *SUPERVISED])
def test_every_task_runs_on_mock_data(name):
    task = find(name)
    with tfds.testing.mock_data(num_examples=2, num_sub_examples=2):
        lengths = {**LENGTHS, "weights": 256} if "weights" in task.output_features else LENGTHS
        split = "train" if "train" in task.splits else "validation"
        dataset = task.source.get_dataset(split=split, shuffle=False).take(2)
        if name == "super_glue_wsc":  # whichever labels the mock made up
            dataset = task.source.rewrite(tf.data.Dataset.from_tensors(wsc()), split)
        examples = list(task.preprocess_postcache(dataset, sequence_length=lengths, seed=0).as_numpy_iterator())
    assert examples
    for example in examples:
        for key, feature in task.output_features.items():
            assert example[key].dtype == np.int32
            assert feature.add_eos is (key != "weights" and (name, key) != ("c4_continuation", "inputs"))
        if name not in (
            "c4_causal_lm",
            "c4_full_lm",
            "c4_prefix_lm",
            "c4_continuation",
        ):  # whose windows end in EOS where the text ends
            assert example["targets"][-1] == task.output_features["targets"].vocabulary.eos_id


def test_mixtures_have_t5s_rates():
    together = seqio.MixtureRegistry.get("t5_supervised")
    rates = {task.name: together.get_rate(task) for task in together.tasks}
    assert rates["wmt14_en_fr"] == rates["wmt14_en_de"] == rates["wmt16_en_ro"] == 2**19
    assert rates["cnn_dailymail"] == 287_113
    assert rates["glue_rte"] == rates["super_glue_rte"] == 1245
    assert "glue_wnli" not in rates
    assert len(rates) == 8 + 8 + 5
    glue = seqio.MixtureRegistry.get("glue")
    assert {task.name: glue.get_rate(task) for task in glue.tasks} == t5.GLUE_SIZES
    assert len(seqio.MixtureRegistry.get("super_glue").tasks) == 8


def test_registering_asks_tfds_for_nothing(monkeypatch):
    """A builder, which may go to the network for its metadata, is made when data are asked for and not before."""

    def refuse(*arguments, **keywords):
        raise AssertionError(f"asked for {arguments}")

    monkeypatch.setattr(tfds, "builder", refuse)
    monkeypatch.setattr(tfds, "load", refuse)
    denoisers = seqio.MixtureRegistry.get("c4_ul2").rate_per_task_name
    for name in ("glue", "super_glue", "t5_supervised", "c4_ul2"):
        seqio.MixtureRegistry.remove(name)
    for name in [*PRETRAINING, *SUPERVISED, *denoisers]:
        seqio.TaskRegistry.remove(name)
    t5.register()
    assert describe("glue_mnli", sizes=False).prefix == "mnli "
    assert list(find("glue_mnli").splits) == ["train", "validation", "test"]
    with pytest.raises(AssertionError, match="asked for"):
        find("squad").get_dataset(LENGTHS, split="train")

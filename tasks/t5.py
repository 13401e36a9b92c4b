"""T5's tasks (https://arxiv.org/abs/1910.10683) on TFDS, with T5's prefixes, label texts and metrics.

Registration reads and downloads nothing; the first request for a dataset does. T5's code and the examples in its paper
differ in two places: like the paper, SQuAD's texts are unchanged (the code puts spaces around punctuation), and WiC has
no part of speech.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import seqio
import tensorflow as tf

from t2t.data.answers import HIDDEN
from t2t.tasks import metrics
from t2t.tasks.mixing import mix
from t2t.tasks.objectives import (
    bart,
    causal_lm,
    encoder_features,
    masked_lm,
    prefix_lm,
    span_corruption,
    text_features,
)
from t2t.tasks.register import add
from t2t.tasks.ul2 import mixture_of_denoisers

Example = Mapping[str, Any]

GLUE_SIZES = {
    "glue_cola": 8_551,
    "glue_sst2": 67_349,
    "glue_mrpc": 3_668,
    "glue_qqp": 363_849,
    "glue_stsb": 5_749,
    "glue_mnli": 392_702,
    "glue_qnli": 104_743,
    "glue_rte": 2_490,
}
"""Numbers of training examples, for T5's mixing rates. As in T5, the mixture has no WNLI, whose training set is misleading."""

SUPER_GLUE_SIZES = {
    "super_glue_boolq": 9_427,
    "super_glue_cb": 250,
    "super_glue_copa": 400,
    "super_glue_multirc": 27_243,
    "super_glue_record": 138_854,
    "super_glue_rte": 2_490,
    "super_glue_wic": 5_428,
    "super_glue_wsc": 259,
}

OTHER_SIZES = {
    "cnn_dailymail": 287_113,
    "squad": 87_599,
    "wmt14_en_de": 4_508_785,
    "wmt14_en_fr": 40_836_715,
    "wmt16_en_ro": 610_320,
}

CAP = 2**19
"""T5's artificial limit on a task's size in examples-proportional mixing, K."""


class Rewritten(seqio.TfdsDataSource):
    """A TFDS dataset whose examples a function rewrites, drops or multiplies.

    rewrite: function from the dataset and the split's name to the new dataset.
    """

    def __init__(self, name: str, splits: Any, rewrite: Callable[[tf.data.Dataset, str], tf.data.Dataset]) -> None:
        super().__init__(name, splits=splits)
        self.rewrite = rewrite

    def get_dataset(self, split: str | None = None, **arguments: Any) -> tf.data.Dataset:  # type: ignore[override]
        """Return the rewritten dataset of a split. The default is "train"."""
        return self.rewrite(super().get_dataset(split=split, **arguments), split or "train")


SPLITS = ("train", "validation", "test")


def similarity(example: Example) -> tf.Tensor:
    """Return STS-B's label rounded to the nearest 0.2, as text: "3.4". A hidden label is -1."""
    rounded = tf.strings.as_string(tf.round(example["label"] * 5) / 5, precision=1)
    return tf.where(example["label"] < 0, HIDDEN, rounded)


def referent(example: Example) -> tf.Tensor:
    """Return the noun that WSC's pronoun may refer to; a hidden label gives the hidden answer."""
    return tf.where(example["label"] < 0, HIDDEN, example["span1_text"])


def multirc(dataset: tf.data.Dataset, split: str) -> tf.data.Dataset:
    """Remove the markup from MultiRC's paragraphs, and add `group`, the question that an answer belongs to."""

    def rewrite(example: Example) -> Example:
        def plain(text: tf.Tensor) -> tf.Tensor:
            return tf.strings.regex_replace(tf.strings.regex_replace(text, "<br>", " "), "</?b>", "")

        index = example["idx"]
        group = tf.strings.join([tf.strings.as_string(index[key]) for key in ("paragraph", "question")], "-")
        return {**example, **{key: plain(example[key]) for key in ("question", "answer", "paragraph")}, "group": group}

    return dataset.map(rewrite, num_parallel_calls=tf.data.AUTOTUNE)


def record(dataset: tf.data.Dataset, split: str) -> tf.data.Dataset:
    """Make one example for each right answer of a ReCoRD query in training, and one for each query in other splits.

    Adds `entities` (joined), `choices` (the entities), `group` (the query), and `answers` (all right answers).
    """

    def rewrite(example: Example) -> Example:
        passage = tf.strings.regex_replace(example["passage"], r"""([.?!"'])\n@highlight\n""", r"\1 ")
        passage = tf.strings.regex_replace(passage, r"\n@highlight\n", ". ")
        index = example["idx"]
        group = tf.strings.join([tf.strings.as_string(index[key]) for key in ("passage", "query")], "-")
        return {
            "passage": passage,
            "query": example["query"],
            "entities": tf.strings.reduce_join(example["entities"], separator=", "),
            "choices": example["entities"],
            "answers": example["answers"],
            "group": group,
        }

    def each_answer(example: Example) -> tf.data.Dataset:
        answers = tf.concat([example["answers"], [HIDDEN]], 0)[: tf.maximum(tf.size(example["answers"]), 1)]
        answers = answers if split == "train" else answers[:1]
        return tf.data.Dataset.from_tensor_slices(answers).map(lambda answer: {**example, "answer": answer})

    return dataset.map(rewrite, num_parallel_calls=tf.data.AUTOTUNE).flat_map(each_answer)


def wsc(dataset: tf.data.Dataset, split: str) -> tf.data.Dataset:
    """Mark WSC's pronoun, `*it*`; in training, keep only examples in which the pronoun refers to the noun.

    T5 learns to generate the noun, so other examples would teach wrong nouns.
    """

    def rewrite(example: Example) -> Example:
        pronoun = example["span2_text"]
        size = tf.strings.length(pronoun)
        words = tf.strings.split(example["text"], " ")
        places = tf.range(tf.size(words))
        # The index of some examples is off by one word: use the nearest pronoun.
        distance = tf.abs(places - tf.cast(example["span2_index"], tf.int32))
        found = tf.equal(tf.strings.substr(words, tf.zeros_like(places), tf.fill(tf.shape(places), size)), pronoun)
        place = tf.argmin(tf.where(found, distance, distance + tf.size(words)), output_type=tf.int32)
        word = words[place]
        size = tf.where(found[place], size, tf.strings.length(word))
        start, rest = tf.strings.substr(word, 0, size), tf.strings.substr(word, size, tf.strings.length(word))
        marked = tf.strings.join(["*", start, "*", rest])
        text = tf.strings.reduce_join(tf.where(places == place, marked, words), separator=" ")
        return {**example, "text": text}

    if split == "train":
        dataset = dataset.filter(lambda example: tf.equal(example["label"], 1))
    return dataset.map(rewrite, num_parallel_calls=tf.data.AUTOTUNE)


def squad(dataset: tf.data.Dataset, split: str) -> tf.data.Dataset:
    """Make `answers` a list of texts, and `answer` the first of them."""

    def rewrite(example: Example) -> Example:
        answers = example["answers"]["text"]
        return {**example, "answers": answers, "answer": tf.concat([answers, [HIDDEN]], 0)[0]}

    return dataset.map(rewrite, num_parallel_calls=tf.data.AUTOTUNE)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def all_answers(output: str, example: Example | None = None, is_target: bool = False) -> Any:
    """Return all right answers for a SQuAD target, and a prediction unchanged."""
    if is_target and example is not None:
        return [_text(answer) for answer in example["answers"]]
    return output


def grouped(output: str, example: Example | None = None, is_target: bool = False) -> dict[str, Any]:
    """Return a MultiRC target with its question as `group`, and a prediction without."""
    if is_target and example is not None:
        return {"value": output, "group": _text(example["group"])}
    return {"value": output}


def grouped_answers(output: str, example: Example | None = None, is_target: bool = False) -> dict[str, Any]:
    """Return all right answers and the query for a ReCoRD target, and a prediction without query."""
    if is_target and example is not None:
        return {"value": all_answers(output, example, is_target), "group": _text(example["group"])}
    return {"value": output}


_DETERMINERS = frozenset(
    [
        "a",
        "an",
        "few",
        "her",
        "his",
        "each",
        "every",
        "many",
        "much",
        "my",
        "our",
        "some",
        "that",
        "the",
        "their",
        "these",
        "this",
        "those",
        "which",
        "whose",
        "your",
    ]
)


def same_referent(output: str, example: Example | None = None, is_target: bool = False) -> str:
    """Return the label "True" or "False" for a WSC target. A prediction is "True" if it names the noun in question.

    One of the two may have more words ("the fuzzy bunny", "bunny"), but a possessive must match ("Bob", "Bob's hat").
    """
    if example is None:
        return output
    if is_target:
        return "True" if int(example["label"]) == 1 else "False"

    def words(text: str) -> list[str]:
        return [word for word in text.lower().split() if word not in _DETERMINERS]

    predicted, expected = words(output), words(_text(example["span1_text"]))
    if any("'" in word for word in predicted) != any("'" in word for word in expected):
        return "False"
    return str(bool(predicted) and (set(predicted) <= set(expected) or set(expected) <= set(predicted)))


def register() -> None:
    """Register the tasks and mixtures."""
    _c4()
    _glue()
    _super_glue()
    _others()
    mix("glue", {name: float(size) for name, size in GLUE_SIZES.items()})
    mix("super_glue", {name: float(size) for name, size in SUPER_GLUE_SIZES.items()})
    rates = {name: float(min(size, CAP)) for name, size in {**GLUE_SIZES, **SUPER_GLUE_SIZES, **OTHER_SIZES}.items()}
    # Both benchmarks contain the same task; T5 gives each half of the rate.
    for name in ("glue_rte", "super_glue_rte"):
        rates[name] /= 2
    mix("t5_supervised", rates)


def _c4() -> None:
    source = seqio.TfdsDataSource("c4/en:3.1.0", splits=["train", "validation"])
    add("c4_span_corruption", source=source, targets="text", objective=span_corruption)
    add("c4_prefix_lm", source=source, targets="text", objective=prefix_lm)
    continued = partial(text_features, continued=True)
    add("c4_continuation", source=source, targets="text", objective=prefix_lm, features=continued)
    mixture_of_denoisers("c4_ul2", source=source, targets="text")
    only_targets = partial(text_features, inputs=False)
    add("c4_full_lm", source=source, targets="text", objective=causal_lm, features=only_targets)
    add("c4_causal_lm", source=source, targets="text", objective=causal_lm, features=only_targets)
    add("c4_masked_lm", source=source, targets="text", objective=masked_lm, features=encoder_features)
    # ModernBERT (Warner et al. 2024, section 2.2.2)
    more = partial(masked_lm, rate=0.3)
    add("c4_masked_lm_30", source=source, targets="text", objective=more, features=encoder_features)
    # NeoBERT (Le Breton et al. 2025, section 3; the released code for masked=1)
    all_masks = partial(masked_lm, rate=0.2, masked=1.0, replaced=0.0)
    add("c4_masked_lm_20", source=source, targets="text", objective=all_masks, features=encoder_features)
    add("c4_bart", source=source, targets="text", objective=bart)
    # ELECTRA (Clark et al. 2020, table 6): 15% of the tokens, 25% for the large model. The generator makes the replacements, so replaced=0.
    for name, rate in (("c4_electra", 0.15), ("c4_electra_25", 0.25)):
        electra = partial(masked_lm, rate=rate, masked=0.85, replaced=0.0)
        add(name, source=source, targets="text", objective=electra, features=encoder_features)


def _classes(name: str, source: seqio.DataSource, prefix: str, inputs: str, labels: str, *scores: Any) -> None:
    add(
        name,
        source=source,
        prefix=prefix,
        inputs=inputs,
        targets="label",
        labels=labels.split(),
        metrics=scores or (metrics.accuracy,),
    )


def _glue() -> None:
    def source(config: str, splits: Any = SPLITS) -> seqio.DataSource:
        return seqio.TfdsDataSource(f"glue/{config}:2.0.0", splits=splits)

    pair = "sentence1: {sentence1} sentence2: {sentence2}"
    two, three = "entailment not_entailment", "entailment neutral contradiction"
    _classes("glue_cola", source("cola"), "cola ", "sentence: {sentence}", "unacceptable acceptable", metrics.mcc)
    _classes("glue_sst2", source("sst2"), "sst2 ", "sentence: {sentence}", "negative positive")
    for name, inputs, label in (
        ("mrpc", pair, "equivalent"),
        ("qqp", "question1: {question1} question2: {question2}", "duplicate"),
    ):
        labels = [f"not_{label}", label]
        f1 = partial(metrics.f1, positive=label, labels=labels)
        _classes(f"glue_{name}", source(name), f"{name} ", inputs, " ".join(labels), f1, metrics.accuracy)
    add(
        "glue_stsb",
        source=source("stsb"),
        prefix="stsb ",
        inputs=pair,
        targets=similarity,
        metrics=[metrics.pearson, metrics.spearman],
    )
    nli = "hypothesis: {hypothesis} premise: {premise}"
    matched = {"train": "train", "validation": "validation_matched", "test": "test_matched"}
    _classes("glue_mnli", source("mnli", matched), "mnli ", nli, three)
    _classes("glue_mnli_mismatched", source("mnli_mismatched", SPLITS[1:]), "mnli ", nli, three)
    _classes("glue_qnli", source("qnli"), "qnli ", "question: {question} sentence: {sentence}", two)
    _classes("glue_rte", source("rte"), "rte ", pair, two)
    _classes("glue_wnli", source("wnli"), "wnli ", pair, "not_entailment entailment")


def _super_glue() -> None:
    def source(config: str) -> seqio.DataSource:
        return seqio.TfdsDataSource(f"super_glue/{config}:1.0.2", splits=SPLITS)

    nli = "hypothesis: {hypothesis} premise: {premise}"
    boolean = "False True"
    _classes("super_glue_boolq", source("boolq"), "boolq ", "passage: {passage} question: {question}", boolean)
    three = "entailment contradiction neutral"
    macro = partial(metrics.f1, labels=three.split())
    _classes("super_glue_cb", source("cb"), "cb ", nli, three, macro, metrics.accuracy)
    _classes(
        "super_glue_copa",
        source("copa"),
        "copa ",
        "choice1: {choice1} choice2: {choice2} premise: {premise} question: {question}",
        "choice1 choice2",
    )
    add(
        "super_glue_multirc",
        source=Rewritten("super_glue/multirc:1.0.2", SPLITS, multirc),
        prefix="multirc ",
        inputs="question: {question} answer: {answer} paragraph: {paragraph}",
        targets="label",
        labels=boolean.split(),
        keep=["group"],
        postprocess=grouped,
        metrics=[metrics.multirc],
    )
    add(
        "super_glue_record",
        source=Rewritten("super_glue/record:1.0.2", SPLITS, record),
        prefix="record ",
        inputs="query: {query} entities: {entities} passage: {passage}",
        targets="answer",
        keep=["answers", "choices", "group"],
        postprocess=grouped_answers,
        metrics=[metrics.record],
    )
    _classes("super_glue_rte", source("rte"), "rte ", nli, "entailment not_entailment")
    words = "sentence1: {sentence1} sentence2: {sentence2} word: {word}"
    _classes("super_glue_wic", source("wic"), "wic ", words, boolean)
    add(
        "super_glue_wsc",
        source=Rewritten("super_glue/wsc.fixed:1.0.2", SPLITS, wsc),
        prefix="wsc: ",
        inputs="text",
        targets=referent,
        keep=["label", "span1_text"],
        postprocess=same_referent,
        metrics=[metrics.accuracy],
    )


def _others() -> None:
    add(
        "squad",
        source=Rewritten("squad/v1.1:3.0.0", SPLITS[:2], squad),
        inputs="question: {question} context: {context}",
        targets="answer",
        keep=["answers"],
        postprocess=all_answers,
        metrics=[metrics.squad],
    )
    add(
        "cnn_dailymail",
        source=seqio.TfdsDataSource("cnn_dailymail:3.4.0", splits=SPLITS),
        prefix="summarize: ",
        inputs="article",
        targets="highlights",
        metrics=[metrics.rouge],
    )
    for year, code, language in ((14, "de", "German"), (14, "fr", "French"), (16, "ro", "Romanian")):
        add(
            f"wmt{year}_en_{code}",
            source=seqio.TfdsDataSource(f"wmt{year}_translate/{code}-en:1.0.0", splits=SPLITS),
            prefix=f"translate English to {language}: ",
            inputs="en",
            targets=code,
            metrics=[metrics.bleu],
        )


register()

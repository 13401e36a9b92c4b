"""Metric functions with SeqIO's signatures: `(targets, predictions)` or `(targets, scores)` -> name -> value.

Scales: accuracy, exact match, F1, correlations, MultiRC and rank classification are fractions (correlations from -1 to 1).
`squad`, `squad_v2`, `record`, `bleu` and `rouge` are from 0 to 100, as is customary. A prediction that is not a valid label or number
counts as wrong. Bind other parameter values with `functools.partial`.

Every function raises UserError for zero examples, and if the numbers of targets and predictions differ.
"""

from __future__ import annotations

import collections
import math
import re
import string
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from t2t.errors import UserError
from t2t.tasks.word_problems import number_match as number_match

Answers = str | Sequence[str]
"""One right answer, or several equivalent ones."""


def exact_match(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return the fraction of predictions that equal their target."""
    _check("exact_match", targets, predictions)
    return {"exact_match": _fraction_equal(targets, predictions)}


def accuracy(targets: Sequence[Hashable], predictions: Sequence[Hashable]) -> dict[str, float]:
    """Return the fraction of examples with the right predicted class. Classes are texts or numbers."""
    _check("accuracy", targets, predictions)
    return {"accuracy": _fraction_equal(targets, predictions)}


exact_match.judges = True  # type: ignore[attr-defined]  # see t2t.train.sampled_answers
accuracy.judges = True  # type: ignore[attr-defined]


def pair_accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Return the fraction of text pairs whose question was answered correctly; see `t2t.tasks.objectives.pair_decision`."""
    _check("pair_accuracy", targets, predictions)
    return {"pair_accuracy": _fraction_equal(targets, predictions)}


def f1(
    targets: Sequence[Hashable],
    predictions: Sequence[Hashable],
    *,
    positive: Hashable | None = None,
    labels: Sequence[Hashable] | None = None,
) -> dict[str, float]:
    """Return an F1 score of classes, as a fraction.

    Args:
      targets: the right classes, texts or numbers.
      predictions: the predicted classes. With two classes, a prediction that is neither counts as the wrong class, as in T5;
        with more classes, it counts as no class.
      positive: the class whose F1 to return; None for the unweighted mean over all classes ("macro").
      labels: all classes. Default: the classes in the targets, and `positive`.
    """
    _check("f1", targets, predictions)
    known = list(dict.fromkeys([*(labels or targets), *([] if positive is None else [positive])]))
    guesses = list(predictions)
    if len(known) == 2:
        for i, (target, guess) in enumerate(zip(targets, guesses, strict=True)):
            if guess not in known:
                guesses[i] = known[1] if target == known[0] else known[0]
    wanted = known if positive is None else [positive]
    return {"f1": float(np.mean([_class_f1(targets, guesses, label) for label in wanted]))}


def multilabel_f1(
    targets: Sequence[Sequence[Hashable]],
    predictions: Sequence[Sequence[Hashable]],
    *,
    labels: Sequence[Hashable] | None = None,
) -> dict[str, float]:
    """Return F1 scores of sets of labels, as fractions: `micro_f1` over all decisions, and `macro_f1`, the unweighted mean over the labels.

    Args:
      targets: the right labels of each text.
      predictions: the predicted labels of each text.
      labels: all labels. Default: those of the targets. A label that neither a target nor a prediction has counts 0 in `macro_f1`.
    """
    _check("multilabel_f1", targets, predictions)
    pairs = [(set(target), set(guess)) for target, guess in zip(targets, predictions, strict=True)]
    known = list(dict.fromkeys([label for target in targets for label in target] if labels is None else labels))

    def ratio(hits: int, either: int) -> float:
        return 2 * hits / either if either else 0.0

    each = [ratio(sum(x in t and x in g for t, g in pairs), sum((x in t) + (x in g) for t, g in pairs)) for x in known]
    return {
        "micro_f1": ratio(sum(len(t & g) for t, g in pairs), sum(len(t) + len(g) for t, g in pairs)),
        "macro_f1": float(np.mean(each)) if each else 0.0,
    }


def entity_f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Return the micro-averaged `precision`, `recall` and `f1` of entities, as fractions. An entity is right if type, start and end are.

    Args:
      targets: the tags of each text, separated by spaces: O, B-type (starts an entity) or I-type (continues an entity of this type or starts
        one), as read by CoNLL's script (Tjong Kim Sang & De Meulder 2003).
      predictions: tags in the same form.
    """
    _check("entity_f1", targets, predictions)
    wanted, found = map(_entities, targets), map(_entities, predictions)
    counts = [(len(w & f), len(w), len(f)) for w, f in zip(wanted, found, strict=True)]
    right, in_targets, guessed = (sum(column) for column in zip(*counts, strict=True))
    return {
        "precision": right / guessed if guessed else 0.0,
        "recall": right / in_targets if in_targets else 0.0,
        "f1": 2 * right / (in_targets + guessed) if in_targets + guessed else 0.0,
    }


def tag_accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Return the fraction of words with the right predicted tag. Tags are separated by spaces."""
    _check("tag_accuracy", targets, predictions)
    pairs = [
        p
        for target, guess in zip(targets, predictions, strict=True)
        for p in zip(target.split(), guess.split(), strict=True)
    ]
    return {"tag_accuracy": float(np.mean([t == p for t, p in pairs])) if pairs else 0.0}


def mcc(targets: Sequence[Hashable], predictions: Sequence[Hashable]) -> dict[str, float]:
    """Return Matthews' correlation coefficient, from -1 to 1; 0 if all targets or all predictions have one class.

    A prediction that is not a class of the targets is a class of its own, as in T5.
    """
    _check("mcc", targets, predictions)
    ids = {label: i for i, label in enumerate(dict.fromkeys([*targets, *predictions]))}
    table = np.zeros((len(ids), len(ids)))
    for target, guess in zip(targets, predictions, strict=True):
        table[ids[target], ids[guess]] += 1
    # Gorodkin's generalization to several classes (2004); with two classes it equals Matthews' coefficient.
    total, right, truly, guessed = table.sum(), np.trace(table), table.sum(1), table.sum(0)
    norm = math.sqrt((total**2 - guessed @ guessed) * (total**2 - truly @ truly))
    return {"mcc": float((right * total - truly @ guessed) / norm) if norm else 0.0}


def pearson(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return Pearson's correlation of numbers (or texts of numbers), from -1 to 1; 0 if one side is constant.

    A prediction that is not a finite number counts as the end of the targets' range that is farther from its target.
    """
    import scipy.stats

    return {"pearson": _correlation(scipy.stats.pearsonr, *_numbers("pearson", targets, predictions))}


def spearman(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return Spearman's rank correlation; otherwise like `pearson`."""
    import scipy.stats

    return {"spearman": _correlation(scipy.stats.spearmanr, *_numbers("spearman", targets, predictions))}


def mse(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return the mean squared error of numbers, of texts of numbers, or of lists of as many numbers each.

    Raises UserError for a target or prediction that is not a number.
    """
    _check("mse", targets, predictions)
    try:
        wanted, guesses = (np.array(values, np.float64) for values in (targets, predictions))
    except ValueError as error:
        raise UserError(f"mse: a target or a prediction is not a number: {error}.") from None
    return {"mse": float(np.mean(np.square(wanted - guesses)))}


def squad(targets: Sequence[Answers], predictions: Sequence[str]) -> dict[str, float]:
    """Return SQuAD's exact match `em` and token `f1`, from 0 to 100: the best over all right answers of a question, as in the script of version 1.1.

    Case, punctuation, articles and spacing are ignored (https://arxiv.org/abs/1606.05250). If normalization leaves an answer without
    words, its F1 is 0 for any prediction.
    """
    return _squad("squad", targets, predictions, _overlap)


def squad_v2(targets: Sequence[Answers], predictions: Sequence[str]) -> dict[str, float]:
    """Return `em` and `f1` as `squad`, for questions that may have no answer, as in the script of version 2.0.

    The target of a question without answer is "", or an empty list; a prediction without words is then right
    (https://arxiv.org/abs/1806.03822). An answer that normalization leaves without words is ignored if there are others.
    """
    normalized = [[answer for answer in _as_list(answers) if _normalize(answer)] or [""] for answers in targets]

    def overlap(answer: list[str], guess: list[str]) -> float:
        return _overlap(answer, guess) if answer and guess else float(answer == guess)

    return _squad("squad_v2", normalized, predictions, overlap)


def _squad(
    name: str,
    targets: Sequence[Answers],
    predictions: Sequence[str],
    overlap: Callable[[list[str], list[str]], float],
) -> dict[str, float]:
    _check(name, targets, predictions)
    em, shared = [], []
    for answers, prediction in zip(targets, predictions, strict=True):
        right = [_normalize(answer) for answer in _as_list(answers)]
        if not right:
            raise UserError(
                f"{name}: a target has no answer; give at least one answer for each question, or use squad_v2."
            )
        guess = _normalize(str(prediction))
        em.append(max(guess == answer for answer in right))
        shared.append(max(overlap(answer.split(), guess.split()) for answer in right))
    return {"em": 100 * float(np.mean(em)), "f1": 100 * float(np.mean(shared))}


def bleu(targets: Sequence[Answers], predictions: Sequence[str], *, tokenize: str = "intl") -> dict[str, float]:
    """Return sacrebleu's corpus BLEU, from 0 to 100. A target is one reference or several.

    Args:
      targets: the references.
      predictions: the predicted texts.
      tokenize: a tokenizer of sacrebleu; T5 reports "intl", WMT's official numbers use "13a".
    """
    import sacrebleu

    _check("bleu", targets, predictions)
    references = [_as_list(target) for target in targets]
    count = max(len(texts) for texts in references)
    streams: Any = [[texts[i] if i < len(texts) else None for texts in references] for i in range(count)]
    score = sacrebleu.corpus_bleu([str(p) for p in predictions], streams, tokenize=tokenize)
    return {"bleu": score.score}


def rouge(targets: Sequence[Answers], predictions: Sequence[str], *, stemmer: bool = False) -> dict[str, float]:
    """Return the mean F-measures `rouge1`, `rouge2` and `rougeLsum`, from 0 to 100, each with the best of several references.

    rougeLsum works on sentences. As in T5, a sentence ends at a line break or at " . ".
    """
    from rouge_score.rouge_scorer import RougeScorer

    _check("rouge", targets, predictions)
    names = ["rouge1", "rouge2", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=stemmer)

    def lines(text: str) -> str:
        return str(text).replace(" . ", " .\n")

    scores = [
        scorer.score_multi([lines(t) for t in _as_list(target)], lines(prediction))
        for target, prediction in zip(targets, predictions, strict=True)
    ]
    return {name: 100 * float(np.mean([score[name].fmeasure for score in scores])) for name in names}


def perplexity(targets: Sequence[str | Sequence[int]], scores: Sequence[float]) -> dict[str, float]:
    """Return exp of the mean negative log-likelihood, per token if targets are ids, per byte if they are texts.

    Args:
      targets: ids, including the final EOS if it was scored; or texts, which count their UTF-8 bytes plus 1 for the end. The
        value per byte is comparable between models with different vocabularies.
      scores: log-likelihood of each target, summed over its tokens, in nats.
    """
    _check("perplexity", targets, scores)
    units = sum(len(t.encode("utf-8")) + 1 if isinstance(t, str) else len(t) for t in targets)
    if not units:
        raise UserError("perplexity: the targets have no tokens.")
    mean = -float(np.sum(np.asarray(scores, np.float64))) / units
    return {"perplexity": math.exp(mean) if mean < 700 else math.inf}


def rank_classification(targets: Sequence[int | Sequence[int]], scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the fraction of examples whose most likely choice is right.

    Args:
      targets: index of the right choice of each example, or of all right choices. An index of no choice (-1) is never right.
      scores: for each example, a log-likelihood for each of its choices; examples may have different numbers of choices. In a
        tie, the first choice counts. NaN is the lowest score.
    """
    _check("rank_classification", targets, scores)
    right = []
    for target, row in zip(targets, scores, strict=True):
        values = np.asarray(row, np.float64)
        if values.ndim != 1 or not values.size:
            raise UserError(f"rank_classification: expected one score for each choice of an example, not {row!r}.")
        best = int(np.argmax(np.where(np.isnan(values), -np.inf, values)))
        right.append(best in np.atleast_1d(np.asarray(target)))
    return {"rank_accuracy": float(np.mean(right))}


def multirc(targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return MultiRC's `f1a` over all answers and `em`, the fraction of questions with only right answers.

    Args:
      targets: {"group": question, "value": "True" or "False"} for each answer.
      predictions: {"value": text} for each answer.
    """
    _check("multirc", targets, predictions)
    truth, guesses = [t["value"] for t in targets], [p["value"] for p in predictions]
    groups: dict[Hashable, bool] = {}
    for target, guess in zip(targets, guesses, strict=True):
        groups[target["group"]] = groups.get(target["group"], True) and target["value"] == guess
    return {
        "f1a": f1(truth, guesses, positive="True", labels=("False", "True"))["f1"],
        "em": float(np.mean(list(groups.values()))),
    }


def record(targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return ReCoRD's `em` and `f1`, from 0 to 100: `squad` with each query counted once.

    Args:
      targets: {"group": query, "value": right answers} for each example; a query has one example for each answer.
      predictions: {"value": text} for each example.
    """
    _check("record", targets, predictions)
    first: dict[Hashable, int] = {}
    for i, target in enumerate(targets):
        first.setdefault(target["group"], i)
    kept = first.values()
    return squad([targets[i]["value"] for i in kept], [predictions[i]["value"] for i in kept])


def _check(name: str, targets: Sequence[Any], others: Sequence[Any]) -> None:
    if len(targets) != len(others):
        raise UserError(f"{name}: {len(targets)} targets but {len(others)} predictions or scores.")
    if not len(targets):
        raise UserError(f"{name}: there are no examples to evaluate.")


def _fraction_equal(targets: Sequence[Any], predictions: Sequence[Any]) -> float:
    return float(np.mean([bool(np.all(t == p)) for t, p in zip(targets, predictions, strict=True)]))


def _entities(tags: str) -> set[tuple[str, int, int]]:
    """Return (type, first word, last word) of each entity."""
    found, start = set(), 0
    parts = [tag.partition("-") for tag in tags.split()]
    for i, (mark, _, kind) in enumerate(parts):
        if mark == "O":
            continue
        if mark == "B" or i == 0 or parts[i - 1][0] == "O" or parts[i - 1][2] != kind:
            start = i
        after = parts[i + 1] if i + 1 < len(parts) else ("O", "", "")
        if after[0] in ("O", "B") or after[2] != kind:
            found.add((kind, start, i))
    return found


def _class_f1(targets: Sequence[Hashable], predictions: Sequence[Hashable], label: Hashable) -> float:
    hits = sum(t == label and p == label for t, p in zip(targets, predictions, strict=True))
    either = sum(t == label for t in targets) + sum(p == label for p in predictions)
    return 2 * hits / either if either else 0.0


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _numbers(name: str, targets: Sequence[Any], predictions: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    _check(name, targets, predictions)
    wanted = np.array([_number(t) for t in targets])
    bad = np.flatnonzero(~np.isfinite(wanted))
    if bad.size:
        raise UserError(f"{name}: target {targets[bad[0]]!r} is not a number.")
    guesses = np.array([_number(p) for p in predictions])
    low, high = wanted.min(), wanted.max()
    farther = np.where(wanted - low >= high - wanted, low, high)
    return wanted, np.where(np.isfinite(guesses), guesses, farther)


def _correlation(function: Any, targets: np.ndarray, predictions: np.ndarray) -> float:
    if np.ptp(targets) == 0 or np.ptp(predictions) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = float(function(targets, predictions)[0])
    return value if math.isfinite(value) else 0.0


def _as_list(answers: Answers | np.ndarray) -> list[str]:
    if isinstance(answers, str | bytes):
        answers = [answers]  # type: ignore[list-item]
    return [a.decode("utf-8") if isinstance(a, bytes) else str(a) for a in answers]


_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _normalize(text: str) -> str:
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def _overlap(answer: list[str], guess: list[str]) -> float:
    common = sum((collections.Counter(answer) & collections.Counter(guess)).values())
    return 2 * common / (len(answer) + len(guess)) if common else 0.0

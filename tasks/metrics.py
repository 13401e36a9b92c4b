"""Metric functions with SeqIO's signatures: `(targets, predictions)` or `(targets, scores)` -> name -> value.

Scales: accuracy, exact match, F1, correlations, MultiRC and rank classification are fractions (correlations from -1 to 1);
`squad`, `squad_v2`, `record`, `bleu` and `rouge` are from 0 to 100, as they are customarily given. A prediction that cannot be read as a
label or number counts as wrong. Parameters other than the defaults are bound with `functools.partial`.

Every function raises UserError for no examples at all, and for targets and predictions of different number.
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

Answers = str | Sequence[str]
"""One right answer, or several of which any will do."""


def exact_match(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return the share of predictions equal to their target, as fraction."""
    _check("exact_match", targets, predictions)
    return {"exact_match": _share(targets, predictions)}


def accuracy(targets: Sequence[Hashable], predictions: Sequence[Hashable]) -> dict[str, float]:
    """Return the share of examples whose class was predicted, as fraction. Classes are texts or numbers."""
    _check("accuracy", targets, predictions)
    return {"accuracy": _share(targets, predictions)}


def pair_accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Return the share of pairs of texts whose question was answered right, as fraction; see `t2t.tasks.objectives.pair_decision`."""
    _check("pair_accuracy", targets, predictions)
    return {"pair_accuracy": _share(targets, predictions)}


def f1(
    targets: Sequence[Hashable],
    predictions: Sequence[Hashable],
    *,
    positive: Hashable | None = None,
    labels: Sequence[Hashable] | None = None,
) -> dict[str, float]:
    """Return an F1 score of classes, as fraction.

    Args:
      targets: the right classes, texts or numbers.
      predictions: the predicted ones. Of two classes, one that is neither counts as the wrong one, as in T5; of more,
        as none.
      positive: the class whose F1 is wanted; None for the unweighted mean over the classes ("macro").
      labels: all classes; None for those in the targets, and `positive`.
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


def entity_f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Return the micro-averaged `precision`, `recall` and `f1` of entities, as fractions: one is right where type, beginning and end are.

    Args:
      targets: a text's tags with spaces between: O, or a type behind B- (which begins an entity), I- (which goes on with one of its type or
        begins one), as CoNLL's script reads them (Tjong Kim Sang & De Meulder 2003).
      predictions: likewise.
    """
    _check("entity_f1", targets, predictions)
    wanted, found = map(_entities, targets), map(_entities, predictions)
    counts = [(len(w & f), len(w), len(f)) for w, f in zip(wanted, found, strict=True)]
    right, there, guessed = (sum(column) for column in zip(*counts, strict=True))
    return {
        "precision": right / guessed if guessed else 0.0,
        "recall": right / there if there else 0.0,
        "f1": 2 * right / (there + guessed) if there + guessed else 0.0,
    }


def tag_accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Return the share of words whose tag was predicted, as fraction. Tags have spaces between."""
    _check("tag_accuracy", targets, predictions)
    pairs = [
        p
        for target, guess in zip(targets, predictions, strict=True)
        for p in zip(target.split(), guess.split(), strict=True)
    ]
    return {"tag_accuracy": float(np.mean([t == p for t, p in pairs])) if pairs else 0.0}


def mcc(targets: Sequence[Hashable], predictions: Sequence[Hashable]) -> dict[str, float]:
    """Return Matthews' correlation coefficient, from -1 to 1; 0 where all targets or predictions are of one class.

    A prediction that is no target's class is a class of its own, as in T5.
    """
    _check("mcc", targets, predictions)
    ids = {label: i for i, label in enumerate(dict.fromkeys([*targets, *predictions]))}
    table = np.zeros((len(ids), len(ids)))
    for target, guess in zip(targets, predictions, strict=True):
        table[ids[target], ids[guess]] += 1
    # Gorodkin's generalisation to several classes (2004), which for two is Matthews' own.
    total, right, truly, guessed = table.sum(), np.trace(table), table.sum(1), table.sum(0)
    norm = math.sqrt((total**2 - guessed @ guessed) * (total**2 - truly @ truly))
    return {"mcc": float((right * total - truly @ guessed) / norm) if norm else 0.0}


def pearson(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return Pearson's correlation of numbers (or texts of numbers), from -1 to 1; 0 where one side is constant.

    What is no finite number counts as the end of the targets' range that is farther from its target.
    """
    import scipy.stats

    return {"pearson": _correlation(scipy.stats.pearsonr, *_numbers("pearson", targets, predictions))}


def spearman(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return Spearman's rank correlation; like `pearson` otherwise."""
    import scipy.stats

    return {"spearman": _correlation(scipy.stats.spearmanr, *_numbers("spearman", targets, predictions))}


def squad(targets: Sequence[Answers], predictions: Sequence[str]) -> dict[str, float]:
    """Return SQuAD's exact match `em` and token `f1`, from 0 to 100, the best over the right answers of a question, as the script of version 1.1 has them.

    Case, punctuation, articles and spacing do not count (https://arxiv.org/abs/1606.05250). Where no word is left of an answer, its F1 is 0, whatever is predicted.
    """
    return _squad("squad", targets, predictions, _overlap)


def squad_v2(targets: Sequence[Answers], predictions: Sequence[str]) -> dict[str, float]:
    """Return `em` and `f1` as `squad`, for data in which questions may have no answer, as the script of version 2.0 has them.

    A target of no answer is "", or no text at all; right is then a prediction of no word (https://arxiv.org/abs/1806.03822). Answers of which no word is left do
    not count beside others.
    """
    told = [[answer for answer in _listed(answers) if _normal(answer)] or [""] for answers in targets]

    def overlap(answer: list[str], guess: list[str]) -> float:
        return _overlap(answer, guess) if answer and guess else float(answer == guess)

    return _squad("squad_v2", told, predictions, overlap)


def _squad(
    name: str,
    targets: Sequence[Answers],
    predictions: Sequence[str],
    overlap: Callable[[list[str], list[str]], float],
) -> dict[str, float]:
    _check(name, targets, predictions)
    em, shared = [], []
    for answers, prediction in zip(targets, predictions, strict=True):
        right = [_normal(answer) for answer in _listed(answers)]
        if not right:
            raise UserError(
                f"{name}: a target has no answer; give at least one text for each question, or use squad_v2."
            )
        guess = _normal(str(prediction))
        em.append(max(guess == answer for answer in right))
        shared.append(max(overlap(answer.split(), guess.split()) for answer in right))
    return {"em": 100 * float(np.mean(em)), "f1": 100 * float(np.mean(shared))}


def bleu(targets: Sequence[Answers], predictions: Sequence[str], *, tokenize: str = "intl") -> dict[str, float]:
    """Return the corpus's BLEU by sacrebleu, from 0 to 100; a target is one reference or several.

    tokenize: a tokenizer of sacrebleu; T5's figures are with "intl", WMT's official ones with "13a".
    """
    import sacrebleu

    _check("bleu", targets, predictions)
    references = [_listed(target) for target in targets]
    most = max(len(listed) for listed in references)
    streams: Any = [[listed[i] if i < len(listed) else None for listed in references] for i in range(most)]
    score = sacrebleu.corpus_bleu([str(p) for p in predictions], streams, tokenize=tokenize)
    return {"bleu": score.score}


def rouge(targets: Sequence[Answers], predictions: Sequence[str], *, stemmer: bool = False) -> dict[str, float]:
    """Return the mean F-measures `rouge1`, `rouge2` and `rougeLsum`, from 0 to 100; of several references the best.

    Sentences, which rougeLsum looks at, end at a line's end or at " . ", as in T5.
    """
    from rouge_score.rouge_scorer import RougeScorer

    _check("rouge", targets, predictions)
    names = ["rouge1", "rouge2", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=stemmer)

    def lines(text: str) -> str:
        return str(text).replace(" . ", " .\n")

    scores = [
        scorer.score_multi([lines(t) for t in _listed(target)], lines(prediction))
        for target, prediction in zip(targets, predictions, strict=True)
    ]
    return {name: 100 * float(np.mean([score[name].fmeasure for score in scores])) for name in names}


def perplexity(targets: Sequence[str | Sequence[int]], scores: Sequence[float]) -> dict[str, float]:
    """Return exp of the mean negative log-likelihood, of a token where targets are ids, of a byte where they are texts.

    Args:
      targets: ids, the final EOS among them where it was scored; or texts, which count their UTF-8 bytes and 1 for the
        end. Per byte, models with different vocabularies can be compared.
      scores: log-likelihood of each target, summed over its tokens, in nats.
    """
    _check("perplexity", targets, scores)
    units = sum(len(t.encode("utf-8")) + 1 if isinstance(t, str) else len(t) for t in targets)
    if not units:
        raise UserError("perplexity: the targets have no token at all.")
    mean = -float(np.sum(np.asarray(scores, np.float64))) / units
    return {"perplexity": math.exp(mean) if mean < 700 else math.inf}


def rank_classification(targets: Sequence[int | Sequence[int]], scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the share of examples whose likeliest choice is right, as fraction.

    Args:
      targets: index of the right choice of each example, or all right ones. One that is no choice (-1) is never right.
      scores: for each example a log-likelihood for each of its choices; examples may have different numbers of choices.
        Of equal scores the first counts, NaN counts as the least.
    """
    _check("rank_classification", targets, scores)
    right = []
    for target, row in zip(targets, scores, strict=True):
        values = np.asarray(row, np.float64)
        if values.ndim != 1 or not values.size:
            raise UserError(f"rank_classification: scores {row!r} are not one for each choice of an example.")
        best = int(np.argmax(np.where(np.isnan(values), -np.inf, values)))
        right.append(best in np.atleast_1d(np.asarray(target)))
    return {"rank_accuracy": float(np.mean(right))}


def multirc(targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return MultiRC's `f1a` over all answers and `em`, the share of questions with every answer right, as fractions.

    Args:
      targets: for each answer {"group": its question, "value": "True" or "False"}.
      predictions: {"value": text} for each.
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
      targets: {"group": the query, "value": its right answers} for each example; a query has one for each answer.
      predictions: {"value": text} for each.
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
        raise UserError(f"{name}: there is no example to evaluate.")


def _share(targets: Sequence[Any], predictions: Sequence[Any]) -> float:
    return float(np.mean([bool(np.all(t == p)) for t, p in zip(targets, predictions, strict=True)]))


def _entities(tags: str) -> set[tuple[str, int, int]]:
    """Return (type, first word, last word) of each entity."""
    found, begun = set(), 0
    parts = [tag.partition("-") for tag in tags.split()]
    for i, (mark, _, kind) in enumerate(parts):
        if mark == "O":
            continue
        if mark == "B" or i == 0 or parts[i - 1][0] == "O" or parts[i - 1][2] != kind:
            begun = i
        after = parts[i + 1] if i + 1 < len(parts) else ("O", "", "")
        if after[0] in ("O", "B") or after[2] != kind:
            found.add((kind, begun, i))
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


def _listed(answers: Answers | np.ndarray) -> list[str]:
    if isinstance(answers, str | bytes):
        answers = [answers]  # type: ignore[list-item]
    return [a.decode("utf-8") if isinstance(a, bytes) else str(a) for a in answers]


_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _normal(text: str) -> str:
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def _overlap(answer: list[str], guess: list[str]) -> float:
    common = sum((collections.Counter(answer) & collections.Counter(guess)).values())
    return 2 * common / (len(answer) + len(guess)) if common else 0.0

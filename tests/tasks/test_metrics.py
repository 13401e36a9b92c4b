import math
from functools import partial

import numpy as np
import pytest
import scipy.stats
import seqio
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from t2t.errors import UserError
from t2t.tasks import metrics

PREDICTED = (
    metrics.exact_match,
    metrics.accuracy,
    metrics.f1,
    metrics.mcc,
    metrics.pearson,
    metrics.spearman,
    metrics.squad,
    metrics.squad_v2,
    metrics.bleu,
    metrics.rouge,
    metrics.multirc,
    metrics.record,
    metrics.multilabel_f1,
    metrics.mse,
)
SCORED = (metrics.perplexity, metrics.rank_classification)
LABELS = st.lists(st.sampled_from(["yes", "no"]), min_size=1, max_size=30)


def test_exact_match_and_accuracy():
    assert metrics.exact_match(["a b", "c", "d", "e"], ["a b", "c ", "D", "e"]) == {"exact_match": 0.5}
    assert metrics.exact_match([[1, 2], [3]], [[1, 2], [4]]) == {"exact_match": 0.5}
    assert metrics.accuracy(["yes", "no", "no"], ["yes", "maybe", "no"]) == {"accuracy": pytest.approx(2 / 3)}


@pytest.mark.filterwarnings("ignore:A single label")
@given(LABELS, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_classes_equal_sklearn(targets, random):
    predictions = [random.choice(["yes", "no"]) for _ in targets]
    ours = metrics.f1(targets, predictions, positive="yes", labels=("no", "yes"))["f1"]
    assert ours == pytest.approx(sklearn.metrics.f1_score(targets, predictions, pos_label="yes", zero_division=0))
    labels = ["yes", "no", "perhaps"]
    guesses = [random.choice([*labels, "nonsense"]) for _ in targets]
    macro = sklearn.metrics.f1_score(targets, guesses, labels=labels, average="macro", zero_division=0)
    assert metrics.f1(targets, guesses, labels=labels)["f1"] == pytest.approx(macro)
    for answers in (predictions, guesses):
        assert metrics.mcc(targets, answers)["mcc"] == pytest.approx(
            sklearn.metrics.matthews_corrcoef(targets, answers)
        )


def test_sets_of_labels_equal_sklearn():
    labels = ("a", "b", "c", "d")
    flags = np.random.default_rng(0).integers(0, 2, (2, 40, 4))
    flags[:, :, 3] = 0  # neither a target nor a prediction
    sets = [[[x for x, flag in zip(labels, row, strict=True) if flag] for row in side] for side in flags]
    found = metrics.multilabel_f1(*sets, labels=labels)
    assert found["micro_f1"] == pytest.approx(sklearn.metrics.f1_score(*flags, average="micro"))
    macro = sklearn.metrics.f1_score(*flags, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(macro)
    assert metrics.multilabel_f1(*sets)["macro_f1"] == pytest.approx(found["macro_f1"] * 4 / 3)
    assert metrics.multilabel_f1([[]], [[]]) == {"micro_f1": 0.0, "macro_f1": 0.0}


def test_the_squared_error_of_numbers_texts_and_lists():
    assert metrics.mse([1.0, "2"], ["3", 2]) == {"mse": 2.0}
    assert metrics.mse([[1.0, 2.0]], [[0.0, 4.0]]) == {"mse": 2.5}
    with pytest.raises(UserError, match="mse: a target or a prediction is not a number"):
        metrics.mse([1.0], ["much"])


def test_an_answer_that_is_no_label_is_the_wrong_one():
    targets = ["yes", "no", "yes", "no"]
    assert metrics.f1(targets, ["yes", "no", "???", "no"], positive="yes")["f1"] == pytest.approx(2 / 3)
    assert metrics.f1(targets, ["yes", "no", "yes", "???"], positive="yes")["f1"] == pytest.approx(4 / 5)
    assert metrics.mcc(targets, ["", "", "", ""]) == {"mcc": 0.0}


def test_correlations_equal_scipy():
    random = np.random.default_rng(0)
    targets = random.normal(size=50)
    predictions = targets + random.normal(size=50)
    assert metrics.pearson(targets, predictions)["pearson"] == pytest.approx(
        scipy.stats.pearsonr(targets, predictions)[0]
    )
    as_text = metrics.spearman([str(t) for t in targets], [f" {p}" for p in predictions])
    assert as_text["spearman"] == pytest.approx(scipy.stats.spearmanr(targets, predictions)[0])


@pytest.mark.parametrize("nonsense", ["", "very", "nan", "inf", None, "1.2.3"])
def test_what_is_no_number_is_as_wrong_as_can_be(nonsense):
    targets = ["0.0", "2.0", "5.0"]
    assert metrics.pearson(targets, ["0.0", "2.0", nonsense]) == metrics.pearson(targets, [0.0, 2.0, 0.0])
    assert metrics.spearman(targets, [nonsense, "2.0", "5.0"]) == metrics.spearman(targets, [5.0, 2.0, 5.0])
    with pytest.raises(UserError, match="is not a number"):
        metrics.pearson([nonsense], ["1"])


def test_a_constant_side_has_no_correlation():
    assert metrics.pearson([1, 2, 3], [2, 2, 2]) == {"pearson": 0.0}
    assert metrics.spearman([1], [2]) == {"spearman": 0.0}


def test_squad_as_its_evaluation_script_counts():
    targets = [["Denver Broncos", "The Denver Broncos", "Denver"], ["gold"], "Saint Bernadette Soubirous"]
    assert metrics.squad(targets[:1], ["the  denver broncos!"]) == {"em": 100.0, "f1": 100.0}
    assert metrics.squad(targets[1:2], ["golden"]) == {"em": 0.0, "f1": 0.0}
    third = metrics.squad(targets[2:], ["Bernadette Soubirous of Lourdes"])
    assert third == {"em": 0.0, "f1": pytest.approx(100 * 2 * 2 / (3 + 4))}
    both = metrics.squad([[b"gold"], np.array([b"an apple", b"pear"], object)], ["gold", "pear"])
    assert both == {"em": 100.0, "f1": 100.0}


@pytest.mark.parametrize(
    ("answers", "prediction", "first", "second"),
    [  # em and f1 by the script of version 1.1, and by that of 2.0, worked out by hand
        (["Denver Broncos"], "the denver, broncos!", (100, 100), (100, 100)),
        (["the"], "", (100, 0), (100, 100)),  # no word is left of the answer
        (["the"], "a", (100, 0), (100, 100)),
        (["the"], "x", (0, 0), (0, 0)),
        ([""], "", (100, 0), (100, 100)),  # no answer
        ([""], "An", (100, 0), (100, 100)),
        ([""], "gold", (0, 0), (0, 0)),
        (["gold"], "", (0, 0), (0, 0)),
        (["the", "gold"], "", (100, 0), (0, 0)),
        (["the", "gold"], "gold", (100, 100), (100, 100)),
        (["a-b"], "ab", (100, 100), (100, 100)),  # punctuation goes, and leaves no space
        (["a b a"], "b", (100, 100), (100, 100)),  # articles go
        (["x x y"], "x z", (0, 40), (0, 40)),  # words count as often as they stand there
        (["\u201cgold\u201d"], "gold", (0, 0), (0, 0)),  # ASCII's punctuation alone
        (["one", "two three"], "three", (0, 200 / 3), (0, 200 / 3)),
    ],
)
def test_squad_scores_an_example_as_the_scripts_do(answers, prediction, first, second):
    assert metrics.squad([answers], [prediction]) == pytest.approx({"em": first[0], "f1": first[1]})
    assert metrics.squad_v2([answers], [prediction]) == pytest.approx({"em": second[0], "f1": second[1]})


def test_squad_v2_takes_no_text_at_all_for_no_answer():
    assert metrics.squad_v2([[], ["gold"]], ["", "gold"]) == {"em": 100.0, "f1": 100.0}
    with pytest.raises(UserError, match=r"squad: a target has no answer.* use squad_v2"):
        metrics.squad([[]], [""])


def test_bleu():
    assert metrics.bleu(["the cat sat on the mat"], ["the cat sat on the mat"])["bleu"] == pytest.approx(100)
    # Papineni et al. 2002 by hand: precisions 5/6, 3/5, 1/4, and for 4-grams none, smoothed to 1/(2*3); equal lengths.
    hand = 100 * math.exp(np.mean(np.log([5 / 6, 3 / 5, 1 / 4, 1 / 6])))
    assert metrics.bleu(["the cat sat on the mat"], ["the cat the on the mat"])["bleu"] == pytest.approx(hand)
    import sacrebleu

    targets, predictions = ["a b c d e", "f g h i"], ["a b c d x", "f g h i"]
    expected = sacrebleu.corpus_bleu(predictions, [targets], tokenize="intl").score
    assert metrics.bleu(targets, predictions)["bleu"] == pytest.approx(expected)
    several = metrics.bleu([["x y z w", "a b c d e"], ["f g h i"]], ["a b c d e", "f g h i"])
    assert several["bleu"] == pytest.approx(100)
    assert metrics.bleu(targets, ["", ""])["bleu"] == 0


def test_rouge_by_hand():
    scores = metrics.rouge(["police killed the gunman"], ["police kill the gunman"])
    assert scores == {"rouge1": pytest.approx(75), "rouge2": pytest.approx(100 / 3), "rougeLsum": pytest.approx(75)}
    assert metrics.rouge(["police killed the gunman"], ["police kill the gunman"], stemmer=True)["rouge1"] == 100
    mean = metrics.rouge(["a b", "c d"], ["a b", "x y"])
    assert mean["rouge1"] == pytest.approx(50)
    # The same sentences in another order: only looked at one by one do they match.
    swapped = metrics.rouge(["one two . three four"], ["three four . one two"])
    assert swapped["rougeLsum"] == pytest.approx(100)


def test_perplexity():
    assert metrics.perplexity([[5, 6, 1], [7, 1]], [3 * math.log(0.25), 2 * math.log(0.25)]) == {
        "perplexity": pytest.approx(4)
    }
    assert metrics.perplexity(["é"], [3 * math.log(0.5)])["perplexity"] == pytest.approx(2)
    assert metrics.perplexity([[1]], [-math.inf])["perplexity"] == math.inf


def test_rank_classification():
    scores = [[-1.0, -2.0], [-3.0, -2.0, -9.0], [math.nan, -50.0], [-1.0, -1.0]]
    assert metrics.rank_classification([0, 2, 1, 1], scores) == {"rank_accuracy": 0.5}
    assert metrics.rank_classification([[1], [0, 1], -1, 0], scores) == {"rank_accuracy": 0.5}
    with pytest.raises(UserError, match="expected one score for each choice"):
        metrics.rank_classification([0], [-1.0])


def test_multirc_groups_answers_by_question():
    targets = [{"group": g, "value": v} for g, v in [(1, "True"), (1, "False"), (2, "True"), (2, "True")]]
    predictions = [{"value": v} for v in ["True", "False", "True", "unsure"]]
    assert metrics.multirc(targets, predictions) == {"f1a": pytest.approx(0.8), "em": 0.5}


def test_record_counts_each_query_once():
    targets = [{"group": g, "value": ["Paris", "the city"]} for g in (1, 1, 2)]
    predictions = [{"value": v} for v in ["City", "nonsense", "Rome"]]
    assert metrics.record(targets, predictions) == {"em": 50.0, "f1": 50.0}


@pytest.mark.parametrize("metric", [*PREDICTED, *SCORED], ids=lambda metric: metric.__name__)
def test_each_is_a_metric_of_seqio_and_refuses_nothing_to_count(metric):
    features = {"targets": seqio.Feature(seqio.ByteVocabulary())}
    source = seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: None, ["test"])
    task = seqio.Task("measured", source, features, metric_fns=[metric, partial(metric)])
    assert len(task.predict_metric_fns) == (0 if metric in SCORED else 2)
    assert len(task.score_metric_fns) == (2 if metric in SCORED else 0)
    with pytest.raises(UserError, match="no example"):
        metric([], [])
    with pytest.raises(UserError, match="2 targets but 1"):
        metric(["1", "2"], ["1"])


def test_entities_are_right_where_type_beginning_and_end_are():
    """By hand, after CoNLL-2000's rules: an I- after another type begins an entity."""
    targets = ["B-PER I-PER O B-LOC", "O I-LOC I-LOC O", "B-ORG B-ORG"]
    guesses = ["B-PER I-PER O B-ORG", "O B-LOC I-LOC O", "B-ORG I-ORG"]
    found = metrics.entity_f1(targets, guesses)
    assert found == pytest.approx({"precision": 2 / 4, "recall": 2 / 5, "f1": 4 / 9})
    assert metrics.entity_f1(["B-A I-B O I-B"], ["B-A B-B O B-B"])["f1"] == 1
    assert metrics.entity_f1(["O O"], ["O O"]) == {"precision": 0, "recall": 0, "f1": 0}
    assert metrics.tag_accuracy(targets, guesses) == pytest.approx({"tag_accuracy": 7 / 10})

import pytest
import seqio

from t2t.errors import UserError
from t2t.tasks.objectives import causal_lm, encoder_features, prefix_lm, span_corruption, text_features, with_mode
from t2t.vocabularies import Bytes

LENGTHS = {"inputs": 40, "targets": 40}


def made(objective, dataset, vocabulary, features=None, lengths=LENGTHS):
    with seqio.utils.map_seed_manager(0):
        found = objective(dataset, sequence_length=lengths, output_features=features or text_features(vocabulary))
    return [{k: v.tolist() for k, v in e.items()} for e in found.as_numpy_iterator()]


@pytest.mark.parametrize("objective", [span_corruption, prefix_lm, causal_lm])
def test_the_mode_stands_before_what_the_objective_makes_of_shorter_inputs(texts, tokenized, objective):
    vocabulary = Bytes()
    dataset = tokenized([vocabulary.encode(text) for text in texts[:7]])
    mode = vocabulary.encode("[NLU]")
    plain = made(objective, dataset, vocabulary, lengths={**LENGTHS, "inputs": 35})
    assert made(with_mode(objective, "[NLU]"), dataset, vocabulary) == [
        {**e, "inputs": mode + e["inputs"]} for e in plain
    ]
    assert plain


def test_what_cannot_be_is_refused(wordpiece, tokenized):
    dataset = tokenized([[5, 6, 7]])
    with pytest.raises(UserError, match=r"mode '\[NLU\]': WordPiece.* cannot encode it"):
        made(with_mode(causal_lm, "[NLU]"), dataset, wordpiece)
    with pytest.raises(UserError, match=r"inputs_length=5 is too short for mode '\[NLU\]', which is 5 tokens"):
        made(with_mode(causal_lm, "[NLU]"), dataset, Bytes(), lengths={"inputs": 5, "targets": 40})
    with pytest.raises(UserError, match=r"mode 'R': an encoder's task"):
        made(with_mode(causal_lm, "R"), dataset, Bytes(), features=encoder_features(Bytes()))
    with pytest.raises(UserError, match=r"mode '': .* cannot encode it"):
        made(with_mode(causal_lm, ""), dataset, Bytes())

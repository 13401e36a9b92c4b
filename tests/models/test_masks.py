"""Which tokens bear on which logits."""

import numpy as np
import pytest

from t2t.errors import UserError
from tests.models.tiny import config, logits_of, params_of, some_batch, with_ids


def changed(name, column, prefix=0, side="decoder"):
    """Return, for each position, whether its logits change when a column of ids does."""
    settings = config(name)
    batch = some_batch(settings.kind, prefix=prefix)
    logits = logits_of(settings)
    before = logits(with_ids(batch, side, column, 3))
    after = logits(with_ids(batch, side, column, 30))
    return [bool(x) for x in np.abs(np.asarray(before - after)).max(axis=(0, 2)) > 0]


@pytest.mark.parametrize("name", ["gpt", "gpt-1", "t5"])
def test_causal_a_token_changes_no_earlier_logit(name):
    assert changed(name, 5) == [False] * 5 + [True] * 3


def test_a_causal_model_pays_no_heed_to_the_prefix():
    assert changed("gpt", 5, prefix=6) == [False] * 5 + [True] * 3


def test_prefix_tokens_are_seen_by_all_and_others_by_later_ones():
    assert changed("prefix", 3, prefix=4) == [True] * 8
    assert changed("prefix", 4, prefix=4) == [False] * 4 + [True] * 4
    assert changed("prefix", 5, prefix=0) == [False] * 5 + [True] * 3


def test_no_prefix_at_all_is_causal():
    run, own = logits_of(config("prefix")), some_batch("decoder")
    assert own.decoder.prefix is None
    np.testing.assert_allclose(run(own), run(some_batch("decoder", prefix=0)), atol=1e-6)


def test_an_encoder_sees_everything():
    assert changed("bert", 5, side="encoder") == [True] * 8


def test_a_decoder_sees_all_of_the_encoder():
    assert changed("t5", 9, side="encoder") == [True] * 8


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_rows_beyond_learned_positions_are_refused(name):
    model, params = params_of(config(name))
    with pytest.raises(UserError, match=r"sequence of 25 tokens .* 24 learned positions"):
        model.logits(params, some_batch(model.config.kind, length=25))

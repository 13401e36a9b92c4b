"""The mixtures that the quickstarts train on: one objective on the documentation's text beside tasks with prefixes."""

from __future__ import annotations

from t2t.tasks.mixing import mix


def register() -> None:
    """Register `quickstart` (encoder-decoder), `quickstart_decoder` and `quickstart_encoder`."""
    mix("quickstart", {"docs_span_corruption": 2, "docs_signature": 1, "reverse_words": 6, "sort_numbers": 2})
    mix("quickstart_decoder", {"docs_causal_lm": 2, "docs_signature": 1, "reverse_words": 6, "sort_numbers": 2})
    mix("quickstart_encoder", {"docs_masked_lm": 2, "reverse_words_fill_mask": 6, "copy_words_fill_mask": 2})


register()

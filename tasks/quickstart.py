"""Mixtures for the quickstarts: an objective on documentation texts, mixed with tasks that have prefixes."""

from __future__ import annotations

from t2t.tasks.mixing import mix


def register() -> None:
    """Register `quickstart` (encoder-decoder), `quickstart_decoder` and `quickstart_encoder`."""
    # Rates count examples: a documentation text is several times as long as a generated example.
    generated = {"reverse_words": 60, "copy_words": 4}
    mix("quickstart", {"docs_span_corruption": 5, "docs_signature": 2, **generated})
    mix("quickstart_decoder", {"docs_causal_lm": 5, "docs_signature": 2, **generated})
    mix("quickstart_encoder", {"docs_masked_lm": 40, "reverse_words_fill_mask": 40, "copy_words_fill_mask": 4})


register()

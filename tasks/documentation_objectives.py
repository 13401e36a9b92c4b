"""Documentation texts with every objective: T5's ablations, BART's and UL2's noise, and masked language models of encoders.

docs_bert_style, docs_mass_style, docs_replaced_tokens, docs_dropped_tokens, docs_deshuffling       T5's table 3
docs_span_corruption_rate10, _rate15, _rate25, _rate50, _span2, _span3, _span5, _span10            T5's tables 6 and 7
docs_text_infilling, docs_sentence_permutation, docs_bart                                        BART
docs_fill_in_the_middle                                                                          decoders
docs_ul2 (a mixture of docs_ul2_r1, _r2, _s, _x1, _x2, _x3, _x4)                                  UL2
docs_whole_word_masked_lm, docs_span_masked_lm, docs_entity_masked_lm                             encoders
docs_masked_lm_nsp, docs_masked_lm_sop, docs_translation_lm                                       encoders, pairs of texts
"""

from __future__ import annotations

from functools import partial

from t2t.tasks import metrics, objectives
from t2t.tasks.documentation import DocumentationSource
from t2t.tasks.register import Preprocessor, add
from t2t.tasks.ul2 import mixture_of_denoisers


def register() -> None:
    """Register the tasks. This does not create the corpus."""
    texts = DocumentationSource("corpus")
    ablations: dict[str, Preprocessor] = {
        "bert_style": partial(objectives.masked_denoising, replaced=0.1),
        "mass_style": objectives.masked_denoising,
        "replaced_tokens": objectives.replaced_tokens,
        "dropped_tokens": objectives.dropped_tokens,
        "deshuffling": objectives.deshuffling,
        "text_infilling": objectives.text_infilling,
        "sentence_permutation": objectives.sentence_permutation,
        "bart": objectives.bart,
    }
    spans = partial(objectives.span_corruption, shorten=True)
    for rate in (10, 15, 25, 50):
        ablations[f"span_corruption_rate{rate}"] = partial(spans, noise_density=rate / 100)
    for span in (2, 3, 5, 10):
        ablations[f"span_corruption_span{span}"] = partial(spans, mean_span=float(span))
    for name, objective in ablations.items():
        add(f"docs_{name}", source=texts, targets="text", objective=objective)
    add(
        "docs_fill_in_the_middle",
        source=texts,
        targets="text",
        objective=objectives.fill_in_the_middle,
        features=partial(objectives.text_features, inputs=False),
    )
    mixture_of_denoisers("docs_ul2", source=texts, targets="text")
    _encoders(texts)


def _encoders(texts: DocumentationSource) -> None:
    for name in ("whole_word_masked_lm", "span_masked_lm", "entity_masked_lm"):
        add(
            f"docs_{name}",
            source=texts,
            targets="text",
            objective=getattr(objectives, name),
            features=objectives.encoder_features,
        )
    pairs = partial(objectives.encoder_features, types=True)
    for name, objective in (
        ("nsp", objectives.masked_lm_with_next_sentence),
        ("sop", objectives.masked_lm_with_sentence_order),
    ):
        add(
            f"docs_masked_lm_{name}",
            source=texts,
            targets="text",
            objective=objective,
            features=pairs,
            postprocess=objectives.pair_decision,
            metrics=[metrics.pair_accuracy],
        )
    add(
        "docs_translation_lm",
        source=DocumentationSource("signatures"),
        inputs="signature",
        targets="summary",
        objective=objectives.translation_lm,
        features=pairs,
    )


register()

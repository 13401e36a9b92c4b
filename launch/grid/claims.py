"""Published orderings of architectures and objectives, to check against the results of a grid.

The papers compare accuracies. The accuracy of small models is near chance, where the loss on the right answers is more informative. So each claim is
checked with both.
"""

from __future__ import annotations

from dataclasses import replace

from t2t.launch.grid.design import Claim

_CAUSAL, _NON_CAUSAL, _BOTH = "decoder, causal", "decoder, non-causal", "encoder-decoder"
WANG = "Wang et al. 2022, https://arxiv.org/abs/2204.05832"
T5 = "Raffel et al. 2020, https://arxiv.org/abs/1910.10683, table 2"
UL2 = "Tay et al. 2022, https://arxiv.org/abs/2205.05131"

_PUBLISHED = (
    Claim(
        text="pretraining only: a causal decoder with full LM is ahead of models with a prefix",
        source=WANG,
        measure="zero-shot",
        stage="pretrained",
        better=(f"{_CAUSAL} / full LM",),
        than=(f"{_NON_CAUSAL} / prefix LM", f"{_BOTH} / prefix LM"),
    ),
    Claim(
        text="after multitask fine-tuning: an encoder-decoder with span corruption is ahead",
        source=WANG,
        measure="zero-shot",
        stage="fine-tuned",
        better=(f"{_BOTH} / span corruption",),
        than=(
            f"{_CAUSAL} / full LM",
            f"{_NON_CAUSAL} / prefix LM",
            f"{_BOTH} / prefix LM",
            f"{_CAUSAL} / span corruption",
            f"{_NON_CAUSAL} / span corruption",
        ),
    ),
    Claim(
        text="a causal decoder adapted to non-causal span corruption is ahead of itself, both fine-tuned",
        source=WANG,
        measure="zero-shot",
        stage="fine-tuned",
        better=(f"{_CAUSAL} / full LM -> {_NON_CAUSAL} / span corruption",),
        than=(f"{_CAUSAL} / full LM",),
    ),
    Claim(
        text="fine-tuned: an encoder-decoder with denoising is ahead of a prefix LM",
        source=T5,
        measure="score",
        stage="fine-tuned",
        better=(f"{_BOTH} / span corruption",),
        than=(f"{_NON_CAUSAL} / prefix LM",),
    ),
    Claim(
        text="fine-tuned: a prefix LM is ahead of a causal LM",
        source=T5,
        measure="score",
        stage="fine-tuned",
        better=(f"{_NON_CAUSAL} / prefix LM",),
        than=(f"{_CAUSAL} / full LM",),
    ),
    Claim(
        text="fine-tuned: an encoder-decoder is better pretrained by denoising than as a prefix LM",
        source=T5,
        measure="score",
        stage="fine-tuned",
        better=(f"{_BOTH} / span corruption",),
        than=(f"{_BOTH} / prefix LM",),
    ),
    Claim(
        text="fine-tuned: an encoder-decoder is better pretrained with UL2's mixture than with either of its parts",
        source=UL2,
        measure="score",
        stage="fine-tuned",
        better=(f"{_BOTH} / UL2",),
        than=(f"{_BOTH} / span corruption", f"{_BOTH} / prefix LM"),
    ),
    Claim(
        text="fine-tuned: a decoder is better pretrained with UL2's mixture than as a language model",
        source=UL2,
        measure="score",
        stage="fine-tuned",
        better=(f"{_NON_CAUSAL} / UL2",),
        than=(f"{_CAUSAL} / full LM",),
    ),
)
LOSS = {"zero-shot": "held-out loss", "score": "tasks' loss"}
"""Accuracy measure -> the loss on the same answers."""
CLAIMS = tuple(
    replace(claim, measure=measure) for claim in _PUBLISHED for measure in (claim.measure, LOSS[claim.measure])
)

"""Capabilities of models. Training, evaluation, inference and objectives check capabilities, not the kind of the model."""

from __future__ import annotations

from typing import Literal

Kind = Literal["encoder", "decoder", "encoder_decoder"]
"""Kind of a model: the sides of a batch that it reads."""
Output = Literal["tokens", "label", "labels", "numbers", "tags", "span", "vectors"]
"""What logits score: tokens of the vocabulary; labels of a text, of which one is right ("label") or any number ("labels"); numbers of a text, which are the
logits themselves; tags of its words; positions of a span's first and last token. The logits of a model without a head are its outputs ("vectors")."""
VALUES: tuple[Output, ...] = ("labels", "numbers")
"""Outputs whose targets are several numbers for each text, not ids of tokens: 0 or 1 for each label, or the numbers to predict."""
OF_TEXT: tuple[Output, ...] = ("label", *VALUES)
"""Outputs for a whole text, which the logits at its first token score."""
Side = Literal["encoder", "decoder"]
SIDES: dict[Kind, tuple[Side, ...]] = {
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "encoder_decoder": ("encoder", "decoder"),
}
"""The sides of a batch that each kind of model reads."""
Capability = Literal[
    "predict",
    "predict_inputs",
    "detect",
    "generate",
    "continue_text",
    "fill_mask",
    "classify",
    "regress",
    "tag",
    "find_span",
    "embed",
]
"""What a model can do.

predict:        score the targets with logits that depend on all parameters, so that cross-entropy trains all of them.
predict_inputs: score the inputs too (`Data.loss_on_inputs`).
detect:         detect for each token whether another model replaced it (ELECTRA).
generate:       generate text token by token (`Model.start`, `Model.step`).
continue_text:  generate after its own inputs: prompt and output share the model's positions.
fill_mask:      score tokens at masks.
classify:       score the labels of a text.
regress:        predict numbers of a text.
tag:            score the tags of the words of a text.
find_span:      score the ends of a span.
embed:          compute a vector of a text.
"""

_OF_OUTPUT: dict[Output, Capability] = {
    "tokens": "fill_mask",
    "label": "classify",
    "labels": "classify",
    "numbers": "regress",
    "tags": "tag",
    "span": "find_span",
}
_OF_KIND: dict[Kind, frozenset[Capability]] = {
    "encoder": frozenset({"predict", "embed"}),
    "decoder": frozenset({"predict", "predict_inputs", "generate", "continue_text"}),
    "encoder_decoder": frozenset({"predict", "generate"}),
}


def capabilities_of(kind: Kind, output: Output) -> frozenset[Capability]:
    """Return the capabilities of a model of the given kind whose logits score `output`."""
    if output == "vectors":
        return _OF_KIND[kind] - {"predict"}
    return _OF_KIND[kind] | ({_OF_OUTPUT[output]} if kind == "encoder" else set())

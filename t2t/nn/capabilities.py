"""What models can do. Training, evaluation, inference and objectives ask a model for a capability, never which kind of model it is."""

from __future__ import annotations

from typing import Literal

Kind = Literal["encoder", "decoder", "encoder_decoder"]
"""Which sides of a batch a model reads."""
Output = Literal["tokens", "label", "tags", "span"]
"""What logits score: words of the vocabulary; classes of a text, or of each of its words; places of a span's first and last token."""
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
    "tag",
    "find_span",
    "embed",
]
"""What a model can do.

predict:        score the targets with logits that depend on all of its parameters, so that cross-entropy trains the whole of it.
predict_inputs: score its inputs too (`Data.loss_on_inputs`).
detect:         tell for each token whether another model replaced it (ELECTRA).
generate:       write text token by token (`Model.start`, `Model.step`).
continue_text:  generate behind its own inputs: prompt and output share the model's positions.
fill_mask:      score words at masks.
classify:       score labels of a text. tag: score labels of its words. find_span: score the ends of a span.
embed:          make a vector of a text.
"""

_OF_OUTPUT: dict[Output, Capability] = {
    "tokens": "fill_mask",
    "label": "classify",
    "tags": "tag",
    "span": "find_span",
}
_OF_KIND: dict[Kind, frozenset[Capability]] = {
    "encoder": frozenset({"predict", "embed"}),
    "decoder": frozenset({"predict", "predict_inputs", "generate", "continue_text"}),
    "encoder_decoder": frozenset({"predict", "generate"}),
}


def capabilities_of(kind: Kind, output: Output) -> frozenset[Capability]:
    """Return what a model of a kind can do whose logits score `output`."""
    return _OF_KIND[kind] | ({_OF_OUTPUT[output]} if kind == "encoder" else set())

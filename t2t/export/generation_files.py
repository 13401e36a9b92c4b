"""What config.json and generation_config.json say of generating: which ids end a text, in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2t.errors import UserError
from t2t.json_files import read_json
from t2t.nn.model import Kind
from t2t.vocabularies import Tokenizer, Vocabulary
from t2t.vocabularies.library import added

GENERATION = "generation_config.json"
_CONFIG = "config.json"
_GENERATING = ("ForConditionalGeneration", "ForCausalLM", "LMHeadModel")
"""How the names of models that generate end."""
_DEFAULTS: dict[str, Any] = {
    "max_length": 20,
    "max_new_tokens": None,
    "min_length": 0,
    "min_new_tokens": None,
    "do_sample": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "bad_words_ids": None,
    "sequence_bias": None,
    "stop_strings": None,
    "penalty_alpha": None,
    "guidance_scale": None,
    "renormalize_logits": False,
    "exponential_decay_length_penalty": None,
}
"""Settings that change what `generate` of transformers gives, and their values where nothing says them."""


class Generation:
    """What a directory says of generating. What generation_config.json says goes before config.json, as in transformers.

    options: those of config.json.
    Raises UserError where either says an id that is none.
    """

    def __init__(self, directory: Path, options: Mapping[str, Any]) -> None:
        self._directory = directory
        file = directory / GENERATION
        self._values: dict[str, tuple[Any, str]] = {
            name: (value, str(directory / _CONFIG)) for name, value in options.items() if value is not None
        }
        if file.is_file():
            self._values |= {name: (value, str(file)) for name, value in read_json(file).items() if value is not None}

    def ends(self) -> tuple[int, ...]:
        """Return the ids that end a text, in their order; none where nothing says any. Negative ones end nothing."""
        value, where = self._values.get("eos_token_id", ([], ""))
        ids = value if isinstance(value, list) else [value]
        for i in ids:
            if isinstance(i, bool) or not isinstance(i, int):
                raise UserError(f"{where}: eos_token_id is {value!r}: an id or a list of ids is wanted")
        return tuple(dict.fromkeys(i for i in ids if i >= 0))

    def applied(self, vocabulary: Vocabulary, kind: Kind) -> Vocabulary:
        """Return the vocabulary with the ids at which the model ends. An encoder's is the same.

        In a `Tokenizer` EOS becomes the first of them where the tokenizer's files name another, which would end nothing in transformers.
        Raises UserError for an id that the vocabulary lacks, and where an encoder-decoder starts from anything but padding.
        """
        if kind == "encoder":
            return vocabulary
        start, where = self._values.get("decoder_start_token_id", (vocabulary.bos_id, ""))
        if kind == "encoder_decoder" and start != vocabulary.bos_id:
            raise UserError(
                f"{where}: decoder_start_token_id is {start!r}: the decoder starts from {vocabulary.bos_id} here; only that can be honoured"
            )
        ids = self.ends()
        for i in ids:
            if i >= vocabulary.size:
                where = self._values["eos_token_id"][1]
                raise UserError(f"{where}: eos_token_id {i} is none of the tokenizer's {vocabulary.size} ids")
        if ids and vocabulary.eos_id not in ids and isinstance(vocabulary, Tokenizer):
            special = added(vocabulary.library())
            # A word that became EOS would be found in texts where it is but a part.
            named = next((name for name, token in special.items() if token == ids[0]), None)
            vocabulary = vocabulary if named is None else replace(vocabulary, eos=named)
        return replace(vocabulary, ends=tuple(i for i in ids if i != vocabulary.eos_id))

    def not_carried(self, kind: Kind) -> list[str]:
        """Return the defaults of generation that a run does not keep, a text "num_beams = 4" each: `t2t infer` has options of its own."""
        if kind == "encoder":
            return []
        sampling = (
            ("temperature", "top_k", "top_p", "min_p", "typical_p") if self._said("do_sample") is not True else ()
        )
        return [
            f"{name} = {value!r}"
            for name, (value, _) in self._values.items()
            if name in _DEFAULTS and name not in sampling and value not in (_DEFAULTS[name], [], {})
        ]

    def _said(self, name: str) -> Any:
        return self._values.get(name, (None, ""))[0]


def ids_of(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the special tokens' ids as config.json has them; several that end a text are a list."""
    ends = vocabulary.end_ids
    return {
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": vocabulary.eos_id if len(ends) == 1 else list(ends),
        "pad_token_id": vocabulary.pad_id,
    }


def generation_config(
    vocabulary: Vocabulary, options: Mapping[str, Any], lengths: Mapping[str, int] | None
) -> dict[str, Any] | None:
    """Return generation_config.json for a model; None for one that generates nothing.

    options: of config.json. lengths: see `write_huggingface`.
    """
    if not options["architectures"][0].endswith(_GENERATING):
        return None
    made = ids_of(vocabulary)
    if made["pad_token_id"] is None:
        made["pad_token_id"] = vocabulary.eos_id
    if lengths is not None:
        made["max_new_tokens"] = lengths["targets"]
    # Neither padding nor rows of the embeddings that no token has are generated here.
    padding = [] if made["pad_token_id"] in vocabulary.end_ids else [made["pad_token_id"]]
    if never := [*padding, *range(vocabulary.size, options.get("vocab_size", 0))]:
        made["suppress_tokens"] = never
    start = options.get("decoder_start_token_id")
    return made if start is None else {**made, "decoder_start_token_id": start}

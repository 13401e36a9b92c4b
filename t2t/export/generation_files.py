"""Generation settings in config.json and generation_config.json, mainly the end ids: reading and writing."""

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
_FIRST = "forced_bos_token_id"
_GENERATING = ("ForConditionalGeneration", "ForCausalLM", "LMHeadModel", "MTModel")
"""Suffixes of the class names of models that generate."""
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
"""Settings that change the output of `generate` in transformers, with their default values."""


class Generation:
    """The generation settings of a directory. As in transformers, generation_config.json takes precedence over config.json.

    options: the options of config.json.
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
        """Return the end ids in order, without negative ones, which have no effect. Raises UserError if one is not an id."""
        value, where = self._values.get("eos_token_id", ([], ""))
        ids = value if isinstance(value, list) else [value]
        for i in ids:
            if isinstance(i, bool) or not isinstance(i, int):
                raise UserError(f"{where}: eos_token_id is {value!r}: expected an id or a list of ids")
        return tuple(dict.fromkeys(i for i in ids if i >= 0))

    def applied(self, vocabulary: Vocabulary, kind: Kind) -> Vocabulary:
        """Return the vocabulary with the model's end ids. For an encoder it is unchanged.

        `forced_bos_token_id` becomes `forced` of an encoder-decoder's vocabulary.
        If the EOS of a `Tokenizer` is not one of the end ids, the first end id becomes EOS: transformers would not stop at the old one.
        Raises UserError if the vocabulary does not have an end id, or if an encoder-decoder does not start from the vocabulary's start token.
        """
        if kind == "encoder":
            return vocabulary
        start, where = self._values.get("decoder_start_token_id", (vocabulary.bos_id, ""))
        if kind == "encoder_decoder" and start != vocabulary.bos_id:
            raise UserError(
                f"{where}: decoder_start_token_id is {start!r}: only {vocabulary.bos_id}, the start token of the vocabulary, is supported"
            )
        ids = self.ends()
        for i in ids:
            if i >= vocabulary.size:
                where = self._values["eos_token_id"][1]
                raise UserError(f"{where}: eos_token_id {i} is not one of the tokenizer's {vocabulary.size} ids")
        if ids and vocabulary.eos_id not in ids and isinstance(vocabulary, Tokenizer):
            special = added(vocabulary.library())
            # Only a special token can become EOS: an ordinary token would be found inside words.
            eos = next((name for name, token in special.items() if token == ids[0]), None)
            vocabulary = vocabulary if eos is None else replace(vocabulary, eos=eos)
        if kind == "encoder_decoder":
            vocabulary = replace(vocabulary, forced=self._forced(vocabulary))
        return replace(vocabulary, ends=tuple(i for i in ids if i != vocabulary.eos_id))

    def _forced(self, vocabulary: Vocabulary) -> int | None:
        """Return the id that each output begins with, or None. Raises UserError if it is not an id of the vocabulary."""
        value, where = self._values.get(_FIRST, (None, ""))
        if value is not None and (isinstance(value, bool) or value not in range(vocabulary.size)):
            raise UserError(f"{where}: {_FIRST} is {value!r}: expected one of the tokenizer's {vocabulary.size} ids")
        return value

    def not_carried(self, kind: Kind) -> list[str]:
        """Return the generation settings that a run does not keep, as texts like "num_beams = 4". `t2t infer` has its own options for them."""
        if kind == "encoder":
            return []
        do_sample, _ = self._values.get("do_sample", (None, ""))
        unused = () if do_sample is True else ("temperature", "top_k", "top_p", "min_p", "typical_p")
        unused = (*unused, _FIRST) if kind == "encoder_decoder" else unused
        if self._values.get("bad_words_ids", (None,))[0] == [[self._values.get("pad_token_id", (None,))[0]]]:
            unused = (*unused, "bad_words_ids")  # Padding is never generated.
        return [
            f"{name} = {value!r}"
            for name, (value, _) in self._values.items()
            if name in _DEFAULTS and name not in unused and value not in (_DEFAULTS[name], [], {})
        ]


def ids_of(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the ids of special tokens as in config.json. Several end ids are a list."""
    ends = vocabulary.end_ids
    return {
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": vocabulary.eos_id if len(ends) == 1 else list(ends),
        "pad_token_id": vocabulary.pad_id,
    }


def generation_config(
    vocabulary: Vocabulary, options: Mapping[str, Any], lengths: Mapping[str, int] | None
) -> dict[str, Any] | None:
    """Return the content of generation_config.json, or None for a model that does not generate.

    options: the options of config.json. lengths: see `write_huggingface`.
    """
    if not options["architectures"][0].endswith(_GENERATING):
        return None
    settings = ids_of(vocabulary)
    if vocabulary.forced is not None:
        settings[_FIRST] = vocabulary.forced
    if settings["pad_token_id"] is None:
        settings["pad_token_id"] = vocabulary.eos_id
    if lengths is not None:
        settings["max_new_tokens"] = lengths["targets"]
    # Never generate padding, or ids that have an embedding but no token.
    padding = [] if settings["pad_token_id"] in vocabulary.end_ids else [settings["pad_token_id"]]
    if never := [*padding, *range(vocabulary.size, options.get("vocab_size", 0))]:
        settings["suppress_tokens"] = never
    start = options.get("decoder_start_token_id")
    return settings if start is None else {**settings, "decoder_start_token_id": start}

"""A small configuration of BitNet. Without a quantization_config, `transformers` multiplies in floats."""

from __future__ import annotations

from tests.interop.case import LLAMA, case

CASES = (case("BitNet", "in floats", "BitNetConfig", "BitNetForCausalLM", LLAMA, pad_token_id=0),)

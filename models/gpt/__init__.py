"""GPT-1 (Radford et al. 2018), GPT-2 (Radford et al. 2019) and GPT-3 (Brown et al. 2020).

Decoders with learned positions, biases, tanh GELU, and logits tied to the embeddings. GPT-1 normalises after each sublayer; GPT-2 and GPT-3 before
it and once more at the end. GPT-3's alternate layers attend within a local band, in a pattern that was not published: all attend densely here, which
changes no parameter.
"""

from t2t.models.gpt.presets import PRESETS, gpt, gpt1, gpt2, gpt3

__all__ = ["PRESETS", "gpt", "gpt1", "gpt2", "gpt3"]

"""GPT-1 (Radford et al. 2018), GPT-2 (Radford et al. 2019) and GPT-3 (Brown et al. 2020).

Decoders with learned positions, biases, tanh GELU, and logits tied to the embeddings. GPT-1 has norms after each sublayer. GPT-2 and GPT-3 have norms before
each sublayer and a final norm. Every other layer of GPT-3 uses locally banded attention; the width of the band was not published. The presets use dense attention
in all layers, and `gpt3(size, band=...)` a band. This changes no parameter.
"""

from t2t.models.gpt.presets import PRESETS, gpt, gpt1, gpt2, gpt3

__all__ = ["PRESETS", "gpt", "gpt1", "gpt2", "gpt3"]

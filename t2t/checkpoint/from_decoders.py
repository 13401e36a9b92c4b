"""Parameters of an encoder-decoder from decoder-only models (Zhang et al. 2025, https://arxiv.org/abs/2504.06225, section 3)."""

from __future__ import annotations

import re
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from t2t.checkpoint.tree import flatten, shape_table
from t2t.types import Params

_CROSS = re.compile(r"/cross_")
_RELATIVE = "relative_bias"


def encoder_decoder_params(encoder: Params, decoder: Params, want: Params) -> Params:
    """Return the parameters of decoder-only models under the names that they have in an encoder-decoder.

    - The layers of `encoder` are those of the encoder. Its embeddings are the encoder's if the encoder has its own.
    - Everything of `decoder` keeps its name.
    - Cross attention, with its norms, is the self-attention of the same layer. If a shape differs, because encoder and decoder have different widths, no
      cross attention is returned.
    - Relative positions of the encoder are not returned: those of a decoder see one direction only.

    No two parameters are the same array, because a training step donates them.

    encoder, decoder: nested dicts of arrays. They may be the same.
    want: nested dict of arrays or shapes: the parameters of the encoder-decoder.
    """
    shapes, ours = shape_table(want), flatten(decoder)
    found: dict[str, Any] = dict(ours)
    for path, value in flatten(encoder).items():
        folder, _, rest = path.partition("/")
        if folder == "decoder" and _RELATIVE not in rest:
            found[f"encoder/{rest}"] = value
        elif folder == "embeddings" and f"encoder_embeddings/{rest}" in shapes:
            found[f"encoder_embeddings/{rest}"] = value
    sources = {path: _CROSS.sub("/", path) for path in shapes if _CROSS.search(path)}
    if all(source in ours and ours[source].shape == shapes[path] for path, source in sources.items()):
        found |= {path: ours[source] for path, source in sources.items()}
    seen: set[int] = set()
    for path, value in found.items():
        if id(value) in seen:
            found[path] = jnp.copy(value)
        seen.add(id(value))
    nested: Params = unflatten_dict(found, sep="/")
    return nested

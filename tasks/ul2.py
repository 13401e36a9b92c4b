"""UL2's mixture of denoisers (Tay et al. 2022, https://arxiv.org/abs/2205.05131, section 3.1.2) for any texts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import seqio

from t2t.errors import UserError
from t2t.tasks.formatting import Text
from t2t.tasks.mixing import mix
from t2t.tasks.objectives import prefix_lm, span_corruption, with_mode
from t2t.tasks.register import add
from t2t.vocabularies import Vocabulary

REGULAR: Mapping[str, tuple[float, float]] = {"r1": (3.0, 0.15), "r2": (8.0, 0.15)}
EXTREME: Mapping[str, tuple[float, float]] = {"x1": (3.0, 0.5), "x2": (8.0, 0.5), "x3": (64.0, 0.15), "x4": (64.0, 0.5)}
"""Denoiser -> mean length of a span, fraction of the tokens that are noise."""
SUFFIX = 0.25


def mixture_of_denoisers(
    name: str,
    *,
    source: seqio.DataSource,
    targets: Text,
    vocabulary: Vocabulary | seqio.Vocabulary | None = None,
    regular: str = "[NLU]",
    sequential: str = "[S2S]",
    extreme: str = "[NLG]",
    rates: Mapping[str, float] | None = None,
    replace: bool = False,
) -> seqio.Mixture:
    """Register seven denoisers of a text as tasks and their mixture; return the mixture. For encoder-decoders and decoders.

    NAME_r1 and NAME_r2 are span corruption with few noise tokens. NAME_s is prefix LM with a mean suffix of a quarter of the text. NAME_x1 to
    NAME_x4 are span corruption with many noise tokens or long spans. A window is as long as the inputs length, the targets length and the number
    of sentinels allow. X with short spans therefore uses shorter texts if there are few sentinels (602 tokens for 100 sentinels).

    Args:
      name: name of the mixture, and of the tasks before "_r1" and so on.
      source, targets, vocabulary: as `t2t.tasks.add`.
      regular, sequential, extreme: modes before the inputs; "" for none.
      rates: mapping from denoiser ("r1", ..., "s", ..., "x4") to rate, relative to the others. Default: equal rates.
      replace: whether to replace existing tasks and mixtures of these names.

    Raises:
      UserError: as `t2t.tasks.add` and `t2t.tasks.mix`; rates of unknown denoisers.
    """
    denoisers = {
        **{key: (regular, _spans(*of)) for key, of in REGULAR.items()},
        "s": (sequential, partial(prefix_lm, suffix=SUFFIX)),
        **{key: (extreme, _spans(*of)) for key, of in EXTREME.items()},
    }
    rates = dict.fromkeys(denoisers, 1.0) if rates is None else rates
    unknown = [key for key in rates if key not in denoisers]
    if unknown:
        raise UserError(f"rate of {unknown[0]!r} in mixture {name!r}: the denoisers are {', '.join(denoisers)}.")
    for key, (mode, objective) in denoisers.items():
        add(
            f"{name}_{key}",
            source=source,
            targets=targets,
            vocabulary=vocabulary,
            objective=with_mode(objective, mode) if mode else objective,
            replace=replace,
        )
    return mix(name, {f"{name}_{key}": rate for key, rate in rates.items()}, replace=replace)


def _spans(mean_span: float, noise_density: float) -> partial[object]:
    return partial(span_corruption, mean_span=mean_span, noise_density=noise_density, shorten=True)

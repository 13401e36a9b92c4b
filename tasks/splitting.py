"""Splits by a stable hash: an example is in the same split on every machine and in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType

from t2t.errors import UserError

TRAIN = "train"
NONE_HELD_OUT: Mapping[str, float] = MappingProxyType({})


def held_out_shares(held_out: float | Mapping[str, float]) -> dict[str, float]:
    """Return the fraction of each held-out split; a number alone is for "validation".

    Raises:
      UserError: a fraction outside [0, 1), fractions that leave nothing for training, or a split named "train".
    """
    shares = dict(held_out) if isinstance(held_out, Mapping) else ({"validation": float(held_out)} if held_out else {})
    for name, share in shares.items():
        if name == TRAIN:
            raise UserError("held_out names 'train': give fractions of the other splits only; training gets the rest.")
        if not 0 <= share < 1:
            raise UserError(f"held_out fraction {share} of {name!r}: must be in [0, 1).")
    if sum(shares.values()) >= 1:
        raise UserError(
            f"held_out fractions {shares} add up to {sum(shares.values()):g}: nothing is left for training."
        )
    return shares


def split_of(key: bytes, shares: Mapping[str, float]) -> str:
    """Return the split of `key`: each held-out split gets its fraction, "train" the rest."""
    place = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") / 2.0**64
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return TRAIN

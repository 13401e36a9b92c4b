"""Splits by a stable hash, so that an example is in the same split on every machine and in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType

from t2t.errors import UserError

TRAIN = "train"
NONE_HELD_OUT: Mapping[str, float] = MappingProxyType({})


def held_out_shares(held_out: float | Mapping[str, float]) -> dict[str, float]:
    """Return the share of each split held out of training; a number alone is for "validation".

    Raises:
      UserError: a share not within [0, 1), shares that leave nothing to train on, or one named "train".
    """
    shares = dict(held_out) if isinstance(held_out, Mapping) else ({"validation": float(held_out)} if held_out else {})
    for name, share in shares.items():
        if name == TRAIN:
            raise UserError("held_out names 'train': give the shares of the other splits, training gets the rest.")
        if not 0 <= share < 1:
            raise UserError(f"held_out share {share} of {name!r}: must be within [0, 1).")
    if sum(shares.values()) >= 1:
        raise UserError(f"held_out shares {shares} add up to {sum(shares.values()):g}: nothing is left to train on.")
    return shares


def split_of(key: bytes, shares: Mapping[str, float]) -> str:
    """Return the split that `key` falls in: held-out splits with their shares, "train" with the rest."""
    place = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") / 2.0**64
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return TRAIN

"""IA3 in PEFT's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t2t.adapters import Adapter
from t2t.errors import UserError
from t2t.export.family import Options
from t2t.export.peft.files import AdapterFile, Found, Read
from t2t.export.peft.sites import PREFIX, Site, depths, shortened, value
from t2t.optim.paths import matching

KINDS = ("ia3_l",)


def read(file: AdapterFile, options: Options, found: Found, known: Mapping[str, Site]) -> Read:
    """Return an adapter. found: module -> kind of a tensor -> its name. known: the linear layers of the model. Layers without factors have ones."""
    options.free("init_ia3_weights", "feedforward_modules")
    options.finish()
    depth = depths(known)
    params: dict[str, np.ndarray] = {}
    sides: dict[str, bool] = {}
    for module, names in found.items():
        site, name = known[module], names["ia3_l"]
        of_inputs = file.shape(name)[0] == 1
        file.expect(name, (1, site.sizes[0][0]) if of_inputs else (sum(size for _, size in site.sizes), 1))
        factors = file.read(name)
        parts = [factors] * len(site.paths) if of_inputs else site.to_ours(factors)
        for path, part in zip(site.paths, parts, strict=True):
            if sides.setdefault(path, of_inputs) != of_inputs:
                raise UserError(
                    f"{file.path}: {name} scales the {'inputs' if of_inputs else 'outputs'}, unlike that of other layers"
                )
            layers, at = ((), ()) if site.layer is None else ((depth[path],), (site.layer,))
            into = params.setdefault(f"{path}/adapter/factor", np.ones((*layers, part.size), np.float32))
            into[at or ...] = part.reshape(-1)
    scaled = tuple(sorted(path for path, of_inputs in sides.items() if of_inputs))
    return Read(adapter=Adapter(kind="ia3", scaled_inputs=scaled), params=params)


def write(
    adapter: Adapter, chosen: Sequence[Site], others: Sequence[str], flat: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the tensors of an adapter, and its options. others: names of all modules. flat: path -> array of all parameters.

    Raises UserError if layers of ours that are one of theirs do not scale the same inputs.
    """
    tensors: dict[str, np.ndarray] = {}
    inputs: list[str] = []
    for site in chosen:
        parts = {
            path: value(site, f"{path}/adapter/factor", flat) for path in site.paths if f"{path}/adapter/factor" in flat
        }
        of_inputs = {path for pattern in adapter.scaled_inputs for path in matching(pattern, parts)}
        name = f"{PREFIX}{site.module}.ia3_l"
        if not of_inputs:
            ones = [np.ones(outputs, np.float32) for _, outputs in site.sizes]
            vectors = [parts.get(path, one)[None] for path, one in zip(site.paths, ones, strict=True)]
            tensors[name] = site.to_theirs(vectors)
        elif of_inputs == set(site.paths) and len({part.tobytes() for part in parts.values()}) == 1:
            inputs.append(site.module)
            tensors[name] = parts[site.paths[0]][None]
        else:
            raise UserError(
                f"--format peft: {', '.join(site.paths)} are one layer in transformers, and do not scale the same inputs"
            )
    options = {
        "peft_type": "IA3",
        "feedforward_modules": shortened(inputs, others) if inputs else [],
        "init_ia3_weights": True,
    }
    return tensors, options

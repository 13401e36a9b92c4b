"""LoRA and DoRA in PEFT's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t2t.adapters import Adapter
from t2t.errors import UserError
from t2t.export.family import Options
from t2t.export.peft import sites
from t2t.export.peft.files import AdapterFile, Found, Read
from t2t.export.peft.sites import PREFIX, Site, depths, value

_MAGNITUDE = "lora_magnitude_vector"
KINDS = (*sites.KINDS, *sites.TABLE_KINDS, _MAGNITUDE)
_FREE = (
    "layers_to_transform layers_pattern megatron_core qalora_group_size eva_config ensure_weight_tying lora_ga_config"
)
"""Options that do not change what a trained adapter computes, or that the names of the tensors repeat."""
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that do not change the weights of the model."""


def read(file: AdapterFile, options: Options, found: Found, known: Mapping[str, Site]) -> Read:
    """Return an adapter. found: module -> kind of a tensor -> its name. known: the linear layers of the model.

    Layers of ours that are stacked have one rank: smaller ones are filled with zeros, and so are layers without an adapter. Where scales differ, the second
    matrix is multiplied by the quotient.
    """
    dora, stabilized = options.flag("use_dora", False), options.flag("use_rslora", False)
    rank, alpha = options.size("r"), float(options.number("lora_alpha", 8))
    ranks, alphas = options.group("rank_pattern"), options.group("alpha_pattern")
    rate = float(options.number("lora_dropout", 0.0))
    start = options.take("init_lora_weights", True)
    if start not in _STARTS:
        raise options.refuse(
            "init_lora_weights",
            start,
            "this initialization changes the weights of the model; merge the adapter with PEFT",
        )
    options.must("bias", "none", why="trained biases are not supported")
    options.must("use_qalora", False, why="QALoRA is not supported")
    options.must("lora_bias", False, why="biases of the low-rank product are not supported")
    options.free(*_FREE.split())
    options.finish()
    scales: dict[str, float] = {}
    widths: dict[str, int] = {}
    for module, names in found.items():
        widths[module] = width = _check_shapes(file, module, names, known[module], dora=dora)
        if (wanted := _matching(ranks, module, rank)) != width:
            first = names[known[module].matrices[0]]
            raise UserError(f"{file.path}: {first} has rank {width}, but {options.where} says {wanted}")
        scales[module] = float(_matching(alphas, module, alpha)) / (width**0.5 if stabilized else width)
    largest = max(widths.values())
    scale = max(set(scales.values()), key=list(scales.values()).count)
    params: dict[str, np.ndarray] = {}
    depth = depths(known)
    for module, names in found.items():
        site = known[module]
        first, second = site.matrices
        a = file.read(names[first]).T
        bs = site.to_ours(file.read(names[second]) * np.float32(scales[module] / scale))
        for path, (inputs, outputs), b in zip(site.paths, site.sizes, bs, strict=True):
            layers, at = ((), ()) if site.layer is None else ((depth[path],), (site.layer,))
            into_a = params.setdefault(f"{path}/adapter/a", np.zeros((*layers, inputs, largest), np.float32))
            into_b = params.setdefault(f"{path}/adapter/b", np.zeros((*layers, largest, outputs), np.float32))
            into_a[(*at, slice(None), slice(a.shape[1]))] = a
            into_b[(*at, slice(b.shape[0]))] = b
        if dora:
            _put_magnitudes(file, names[_MAGNITUDE], site, depth, params)
    for path in {path.removesuffix("/magnitude") for path in params if path.endswith("/magnitude")}:
        if np.isnan(params[f"{path}/magnitude"]).any():
            raise UserError(
                f"{file.path}: DoRA at only some of the layers is not supported ({path.removesuffix('/adapter')})"
            )
    outside = [module for module in found if known[module].layer is None]
    adapter = Adapter(
        kind="dora" if dora else "lora",
        rank=largest,
        alpha=scale * (largest**0.5 if stabilized else largest),
        rank_stabilized=stabilized,
        dropout=0.0 if outside else rate,
    )
    note = (
        f"note: lora_dropout {rate} is left out in further training: {outside[0]} is not in a stack of layers"
        if outside and rate
        else None
    )
    return Read(adapter=adapter, params=params, notes=() if note is None else (note,))


def write(
    adapter: Adapter, chosen: Sequence[Site], flat: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the tensors of an adapter, and its options. flat: path -> array of all parameters."""
    assert adapter.rank is not None
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    for site in chosen:
        first, seconds = _matrices(site, flat)
        end = "" if site.table else ".weight"
        for name, matrix in zip(site.matrices, (first.T, site.to_theirs(seconds)), strict=True):
            tensors[f"{PREFIX}{site.module}.{name}{end}"] = np.ascontiguousarray(matrix)
        if adapter.kind == "dora":
            vectors = [_magnitude(site, path, flat)[None] for path in site.paths]
            tensors[f"{PREFIX}{site.module}.{_MAGNITUDE}"] = np.ascontiguousarray(site.to_theirs(vectors)[:, 0])
        if first.shape[1] != adapter.rank:
            ranks[site.module] = first.shape[1]
    alpha = float(adapter.rank) if adapter.alpha is None else adapter.alpha
    power = 0.5 if adapter.rank_stabilized else 1.0
    options = {
        "peft_type": "LORA",
        "r": adapter.rank,
        "lora_alpha": alpha,
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rank_stabilized,
        "use_dora": adapter.kind == "dora",
        "rank_pattern": ranks,
        "alpha_pattern": {module: alpha * (rank / adapter.rank) ** power for module, rank in ranks.items()},
        "bias": "none",
        "init_lora_weights": True,
    }
    return tensors, options


def _check_shapes(file: AdapterFile, module: str, names: Mapping[str, str], site: Site, *, dora: bool) -> int:
    """Return the rank at a layer. Raises UserError if a tensor is missing, unexpected or of another shape."""
    if dora and site.table:
        raise UserError(f"{file.path}: DoRA of token embeddings ({module}) is not supported")
    wanted = (*site.matrices, _MAGNITUDE) if dora else site.matrices
    for kind in wanted:
        if kind not in names:
            raise UserError(f"{file.path}: tensor {PREFIX}{module}.{kind}.weight is missing")
    if unexpected := sorted(set(names) - set(wanted)):
        raise UserError(f"{file.path}: tensor {names[unexpected[0]]} is not expected: use_dora is {dora}")
    width = file.shape(names[wanted[0]])[0]
    outputs = sum(size for _, size in site.sizes)
    shapes = ((width, site.sizes[0][0]), (outputs, width), (outputs,))
    for kind, shape in zip(wanted, shapes, strict=False):  # the last is DoRA's
        file.expect(names[kind], shape)
    return width


def _matching(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """Return the value of a module in `rank_pattern` or `alpha_pattern`, whose keys are ends of names."""
    for key, own in pattern.items():
        if module == key or module.endswith(f".{key}"):
            return own
    return default


def _put_magnitudes(
    file: AdapterFile, name: str, site: Site, depth: Mapping[str, int], params: dict[str, np.ndarray]
) -> None:
    for path, (_, outputs), part in zip(site.paths, site.sizes, site.to_ours(file.read(name)[:, None]), strict=True):
        layers, at = ((), ()) if site.layer is None else ((depth[path],), (site.layer,))
        place = f"{path}/adapter/magnitude"
        params.setdefault(place, np.full((*layers, outputs), np.nan, np.float32))[at or ...] = part[0]


def _magnitude(site: Site, path: str, flat: Mapping[str, Any]) -> np.ndarray:
    """Return the magnitudes of a linear layer of ours: without an adapter, the norms of its kernel's columns."""
    if f"{path}/adapter/magnitude" in flat:
        return value(site, f"{path}/adapter/magnitude", flat)
    return np.linalg.norm(value(site, f"{path}/kernel", flat), axis=0)


def _matrices(site: Site, flat: Mapping[str, Any]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the first matrix [inputs, R], and the second [R, outputs] of each of our layers, 0 for those without an adapter."""
    parts = {
        path: (value(site, f"{path}/adapter/a", flat), value(site, f"{path}/adapter/b", flat))
        for path in site.paths
        if f"{path}/adapter/a" in flat
    }
    firsts = [a for a, _ in parts.values()]
    if all(np.array_equal(a, firsts[0]) for a in firsts):
        rank = firsts[0].shape[1]
        zeros = [np.zeros((rank, outputs), np.float32) for _, outputs in site.sizes]
        return firsts[0], [parts[path][1] if path in parts else no for path, no in zip(site.paths, zeros, strict=True)]
    total, start, seconds = sum(a.shape[1] for a in firsts), 0, []
    for path, (_, outputs) in zip(site.paths, site.sizes, strict=True):
        second = np.zeros((total, outputs), np.float32)
        if path in parts:
            own = parts[path][1]
            second[start : start + own.shape[0]] = own
            start += own.shape[0]
        seconds.append(second)
    return np.concatenate(firsts, axis=1), seconds

"""Tensors of stacks with a pattern of layers, which are numbered from the first layer to the last in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from t2t.export.mapping import LAYER, Entry, numbered

_Kind = TypeVar("_Kind")


def shortest_pattern(layers: Sequence[_Kind]) -> tuple[_Kind, ...]:
    """Return the shortest pattern that, repeated from the first layer to the last, gives `layers`: (1, 2, 1, 2, 1) is (1, 2)."""
    for length in range(1, len(layers)):
        if all(one == other for one, other in zip(layers, layers[length:], strict=False)):
            return tuple(layers[:length])
    return tuple(layers)


def in_pattern(
    entries: Iterable[Entry], side: str, stack: Any, *, has: Callable[[Any, Any, str], bool] = lambda *_: True
) -> list[Entry]:
    """Return the entries of a stack, each one for every place of the stack's pattern, and for each layer before it.

    entries: as for a stack without a pattern ("decoder/layers/..."). Other entries are returned as they are.
    side:    name of the stack: "encoder" or "decoder".
    stack:   its `StackConfig`.
    has:     function (options of a place, the same as a `StackConfig`, path of a parameter in a layer) that tells whether the layers there have the parameter.
    """
    before = len(stack.first)
    length = len(stack.places[: stack.num_layers - before])
    places = [(place, place.applied(stack)) for place in (*stack.first, *stack.places)]
    repeats, rest = divmod(stack.num_layers - before, length)
    # The layers that are not stacked: folder of our parameters, number of the layer, its options.
    single = [(f"first/{place}", place, places[place]) for place in range(before)]
    single += [(f"tail/{place}", before + repeats * length + place, places[before + place]) for place in range(rest)]
    whole, found = f"{side}/layers/", []
    for entry in entries:
        if LAYER not in entry.theirs or not entry.ours[0].startswith(whole):
            found.append(entry)
            continue

        def moved(folder: str, entry: Entry = entry) -> tuple[str, ...]:
            return tuple(f"{side}/{folder}/{path.removeprefix(whole)}" for path in entry.ours)

        parts = [path.removeprefix(whole) for path in entry.ours]
        for place in range(length):
            if not all(has(*places[before + place], path) for path in parts):
                continue
            folder = "layers" if length == 1 else f"layers/{place}"
            found.append(replace(entry, ours=moved(folder), first=before + place, step=length))
        for folder, number, options in single:
            if not all(has(*options, path) for path in parts):
                continue
            theirs, *aliases = (numbered(name, number) for name in (entry.theirs, *entry.aliases))
            found.append(replace(entry, theirs=theirs, aliases=tuple(aliases), ours=moved(folder)))
    return found

"""Measure generation: its speed, the bytes that it reads, and whether requests of other lengths compile new programs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from t2t.decode import Beam, Decoding, Greedy, Sampling, fill_many, fill_mask, generate, generate_many, place, prompt
from t2t.decode.placement import mesh_of, row_parts
from t2t.decode.rows import bucket, filled, tokens
from t2t.errors import UserError
from t2t.launch.bench.measurement import Measurement
from t2t.launch.bench.synthetic import MASKED
from t2t.launch.bench.timing import programs_compiled, repeat, seconds_of
from t2t.launch.bench.workload import Workload
from t2t.plan import flops
from t2t.types import Batch, Params

PART = "decode"
WAYS: dict[str, Decoding] = {"greedy": Greedy(), "sampling": Sampling(), "beam 4": Beam(size=4)}
LONGEST = 64
"""Default maximum of tokens to generate."""
REQUESTS = 4
"""Number of requests of similar lengths."""
TOP = 5
"""Candidates for each mask."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """prompt: tokens of a request, including the decoder's start token. generate: tokens to generate. room: positions of the cache."""

    prompt: int
    generate: int
    room: int


def check(work: Workload) -> None:
    """Raise UserError if the model can neither generate nor fill in masks, or if the lengths exceed its positions."""
    model = work.experiment.model
    if not model.can("generate"):
        if not model.can("fill_mask"):
            raise UserError(
                f"t2t bench decode {work.recipe}: an encoder with a head for {model.output!r} cannot generate or fill in masks. Nearest: step."
            )
        if work.generate is not None:
            raise UserError(
                f"--generate {work.generate}: {work.recipe} is an encoder, which cannot generate. Nearest: --prompt."
            )
    lengths = lengths_of(work)
    limit = model.max_length
    taken = max(lengths.prompt, lengths.generate) if "encoder" in model.sides else lengths.room
    if limit is not None and taken > limit:
        raise UserError(
            f"--prompt {lengths.prompt} and --generate {lengths.generate} do not fit the {limit} positions of {work.recipe}."
            f" Nearest: --prompt {max(limit - lengths.generate + 1, 1)}."
        )


def lengths_of(work: Workload) -> Lengths:
    """Return the lengths of a request: from the options, or else from the recipe."""
    data, model = work.experiment.data, work.experiment.model
    generate = min(data.targets_length, LONGEST) if work.generate is None else work.generate
    if not model.can("generate"):
        length = data.inputs_length if work.prompt is None else work.prompt
        return Lengths(prompt=length, generate=1, room=length)
    if not model.can("continue_text"):
        return Lengths(
            prompt=data.inputs_length if work.prompt is None else work.prompt, generate=generate, room=generate
        )
    # The recipe of a language model may have no inputs: the part of a row that is not generated is the prompt.
    row = data.inputs_length + data.targets_length
    asked = max(row - generate, 1) if work.prompt is None else work.prompt
    return Lengths(prompt=asked, generate=generate, room=asked + generate - 1)


def measure(work: Workload) -> Iterator[Measurement]:
    """Yield, for each number of rows, the pass over the prompt and each decoding method. All rows generate the full length."""
    check(work)
    params = work.params()
    if work.experiment.model.can("fill_mask"):
        yield from _masks(work, params)
    else:
        for rows in work.rows:
            yield from _generation(work, params, rows)
    yield from _near_lengths(work, params)


def _generation(work: Workload, params: Params, rows: int) -> Iterator[Measurement]:
    model, lengths = work.program.model, lengths_of(work)
    mesh = mesh_of(params)
    batch = place(_requests(work, rows, row_parts(mesh)), mesh)
    start = jax.jit(model.start, static_argnums=2)
    work.log(f"decode: batch {rows}, the prompt")
    shown = {"prompt": lengths.prompt, "generate": lengths.generate, "rows": rows}
    first = repeat(lambda: seconds_of(start, params, batch, lengths.room), work.limits)
    prompt_seconds, operations = float(np.median(first)), _operations(work, params, batch)
    yield Measurement(part=PART, name=f"prompt, batch {rows}", unit="s", samples=tuple(first), details={**shown})
    yield work.with_matmul_share(
        Measurement(
            part=PART,
            name=f"prompt FLOPs, batch {rows}",
            unit="FLOP/s",
            samples=tuple(operations / it for it in first),
            details={**shown, "flops": operations},
        )
    )
    for way, decoding in WAYS.items():
        work.log(f"decode: batch {rows}, {way}")
        key = jax.random.key(0) if isinstance(decoding, Sampling) else None

        def ask(decoding: Decoding = decoding, key: jax.Array | None = key) -> Any:
            # This id never occurs as end of sequence: all rows generate the full length.
            end = model.config.vocab_size
            return generate(model, params, batch, decoding, length=lengths.generate, eos_id=end, key=key)

        found = repeat(partial(seconds_of, ask), work.limits)
        beams = decoding.size if isinstance(decoding, Beam) else 1
        cache, read = cache_bytes(work, params, batch, beams), params_read(work, params, batch)
        yield Measurement(
            part=PART,
            name=f"{way}, batch {rows}",
            unit="tokens/s",
            samples=tuple(rows * lengths.generate / it for it in found),
            details={**shown, "seconds": float(np.median(found)), "cache_bytes": cache},
        )
        if lengths.generate == 1:
            continue
        steps = lengths.generate - 1  # the pass over the prompt gives the first token
        each = [max(it - prompt_seconds, 0.0) / steps for it in found]
        if min(each) == 0.0:
            work.note(f"decode: {way}, batch {rows}: the prompt takes all of the time; the time per token is unknown")
            continue
        yield Measurement(
            part=PART, name=f"{way}, a token, batch {rows}", unit="s", samples=tuple(each), details={**shown}
        )
        yield work.with_copy_share(
            Measurement(
                part=PART,
                name=f"{way}, bytes read, batch {rows}",
                unit="bytes/s",
                samples=tuple((cache + read) / it for it in each),
                details={**shown, "cache_bytes": cache, "parameter_bytes": read},
            )
        )


def _requests(work: Workload, rows: int, parts: int) -> Batch:
    """Return prompts of random ids, padded with rows so that the mesh divides the rows."""
    lengths, padded = lengths_of(work), -(-rows // parts) * parts
    asked = work.random_ids(rows, lengths.prompt)
    if "encoder" in work.experiment.model.sides:
        return prompt(encoder=tokens(asked, (padded, lengths.prompt)), decoder=tokens([[0]] * rows, (padded, 1)))
    return prompt(decoder=tokens(asked, (padded, lengths.prompt), prefixes=[lengths.prompt] * rows))


def _operations(work: Workload, params: Params, batch: Batch) -> float:
    model, room = work.program.model, lengths_of(work).room
    counted = flops.dots(lambda p, b: model.start(p, b, room), flops.plain(params), flops.plain(batch))
    return float(sum(counted.values()))


def cache_bytes(work: Workload, params: Params, batch: Batch, beams: int = 1) -> int:
    """Return the bytes of the cache over all devices: keys and values of the generated tokens and, once for all beams, of the prompt and the encoder."""
    model, room = work.program.model, lengths_of(work).room

    def cached(params: Params, batch: Batch) -> Any:
        _, cache = model.start(params, batch, room)
        assert batch.decoder is not None
        return model.fork(cache, beams)

    arrays = jax.tree.leaves(jax.eval_shape(cached, flops.plain(params), flops.plain(batch)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)


def params_read(work: Workload, params: Params, batch: Batch) -> int:
    """Return the bytes of parameters that a decoding step reads, over all devices with a copy. Of an embedding table, only the used rows count."""
    model, room = work.program.model, lengths_of(work).room
    assert batch.decoder is not None
    ids = jax.ShapeDtypeStruct(batch.decoder.ids.shape[:1], jnp.int32)
    abstract = flops.plain(params)
    _, cache = jax.eval_shape(lambda p, b: model.start(p, b, room), abstract, flops.plain(batch))
    jaxpr = jax.make_jaxpr(model.step)(abstract, cache, ids).jaxpr
    leaves = jax.tree.leaves(params)
    total = 0
    for leaf, variable in zip(leaves, jaxpr.invars, strict=False):
        copies = sum(shard.data.size for shard in leaf.addressable_shards) / leaf.size
        total += int(copies * _read(jaxpr, variable))
    return total


def _read(jaxpr: core.Jaxpr, variable: Any) -> int:
    """Return the bytes of an input that a program reads: only the gathered bytes if the program only gathers from it."""
    whole, gathered = variable.aval.size * variable.aval.dtype.itemsize, 0
    for equation in jaxpr.eqns:
        for index, operand in enumerate(equation.invars):
            if operand is not variable:
                continue
            inner = equation.params.get("jaxpr") if equation.primitive.name in ("jit", "pjit") else None
            if equation.primitive.name == "gather" and index == 0:
                out: Any = equation.outvars[0].aval
                gathered += out.size * out.dtype.itemsize
            elif isinstance(inner, core.ClosedJaxpr):
                gathered += _read(inner.jaxpr, inner.jaxpr.invars[index])
            else:
                return whole
    return min(whole, gathered)


def _masks(work: Workload, params: Params) -> Iterator[Measurement]:
    model, length = work.program.model, lengths_of(work).prompt
    masks, mesh = max(int(MASKED * length), 1), mesh_of(params)
    for rows in work.rows:
        padded = -(-rows // row_parts(mesh)) * row_parts(mesh)
        encoder = tokens(work.random_ids(rows, length), (padded, length))
        zeros = np.zeros((padded, length), np.int32)
        batch = place(Batch(encoder=encoder, decoder=None, targets=zeros, weights=zeros.astype(np.float32)), mesh)
        where = place(filled([list(range(masks))] * rows, (padded, masks), np.int32), mesh)

        def ask(batch: Batch = batch, where: Any = where) -> Any:
            return fill_mask(model, params, batch, where, TOP)

        work.log(f"decode: batch {rows}, fill-mask")
        counted = flops.dots(lambda p, b, w: fill_mask(model, p, b, w, TOP), *map(flops.plain, (params, batch, where)))
        operations = float(sum(counted.values()))
        found = repeat(partial(seconds_of, ask), work.limits)
        shown = {"prompt": length, "masks": masks, "rows": rows}
        name = f"fill-mask, batch {rows}"
        yield Measurement(part=PART, name=name, unit="s", samples=tuple(found), details={**shown})
        yield Measurement(
            part=PART,
            name=f"fill-mask, masks, batch {rows}",
            unit="masks/s",
            samples=tuple(rows * masks / it for it in found),
            details={**shown},
        )
        rate = Measurement(
            part=PART,
            name=f"fill-mask FLOPs, batch {rows}",
            unit="FLOP/s",
            samples=tuple(operations / it for it in found),
            details={**shown, "flops": operations},
        )
        yield work.with_matmul_share(rate)


def _near_lengths(work: Workload, params: Params) -> Iterator[Measurement]:
    """Yield the number of programs that the first request compiles, and that each further request of a similar length compiles."""
    work.log("decode: requests of similar lengths")
    lengths = near_lengths(work)
    ask = _asker(work, params)
    counts = []
    for length in lengths:
        with programs_compiled() as compiled:
            ask(length)
        counts.append(float(len(compiled)))
    tried = " ".join(map(str, lengths))
    yield Measurement(
        part=PART, name="programs, first request", unit="programs", samples=(counts[0],), details={"lengths": tried}
    )
    if len(counts) > 1:
        yield Measurement(
            part=PART,
            name="programs, others of near lengths",
            unit="programs",
            samples=tuple(counts[1:]),
            details={"lengths": tried},
        )


def near_lengths(work: Workload) -> list[int]:
    """Return a few different request lengths that are padded to the same length."""
    shared, limit = work.experiment.model.can("continue_text"), work.experiment.model.max_length
    lengths = lengths_of(work)
    head = int(shared)
    room = limit if not shared or limit is None else limit - lengths.generate + 1
    by_bucket: dict[int, list[int]] = defaultdict(list)
    for length in range(1, max(lengths.prompt - head, 1) + 1):
        by_bucket[bucket(length + head, limit=room)].append(length)
    most = max(by_bucket.values(), key=len)
    return [most[round(i * (len(most) - 1) / (REQUESTS - 1))] for i in range(REQUESTS)] if len(most) > 3 else most


def _asker(work: Workload, params: Params) -> Callable[[int], object]:
    model, lengths = work.program.model, lengths_of(work)
    if work.experiment.model.can("fill_mask"):
        mask = model.config.vocab_size - 1

        def fill(length: int) -> object:
            return fill_many(model, params, [[mask, *[1] * (length - 1)]], mask, top=TOP)

        return fill

    def continue_it(length: int) -> object:
        inputs = work.random_ids(1, length)
        return generate_many(model, params, inputs, Greedy(), length=lengths.generate, eos_id=model.config.vocab_size)

    return continue_it

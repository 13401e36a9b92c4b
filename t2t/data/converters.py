"""Examples of token ids -> rows -> `Batch`, in NumPy alone.

SeqIO's own converters are not used: their packing takes a 0 inside a feature (a loss weight, say) for padding, numbers the segments of
`inputs` and `targets` apart where one of them is empty, and spends a `tf.while_loop` on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from t2t.errors import UserError
from t2t.nn.model import Kind
from t2t.types import Batch, Tokens

Example = Mapping[str, np.ndarray]
"""One example: a one-dimensional array for each feature of the layout."""
Row = Sequence[Example]
"""The examples of one row, in order."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How examples of one kind of model fill rows.

    inputs_length:  tokens of `inputs` an example may have.
    targets_length: tokens of `targets` an example may have; not used by encoders.
    has_inputs:     False for a decoder's task that offers `targets` alone, which then have the whole row to themselves.
    has_types:      encoders: whether the task offers `types`, the token types of its inputs.
    loss_on_inputs: decoders: weight of inputs, that of targets being 1. `Tokens.prefix` is None where it is above 0: what sees itself cannot be predicted.
    bos_id:         what a decoder starts from.
    zero_pads:      whether a 0 at the end of an example is padding; False where id 0 is a word like any other.
    """

    kind: Kind
    inputs_length: int
    targets_length: int
    has_inputs: bool = True
    has_types: bool = False
    loss_on_inputs: float = 0.0
    bos_id: int = 0
    zero_pads: bool = True

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features an example must have."""
        if self.kind == "encoder":
            return ("inputs", "targets", "weights", *(("types",) if self.has_types else ()))
        return ("inputs", "targets") if self.has_inputs else ("targets",)

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens each feature may have; what preprocessors get as `sequence_length`."""
        if self.kind == "encoder":
            return dict.fromkeys(self.features, self.inputs_length)
        if not self.has_inputs:
            return {"targets": self.inputs_length + self.targets_length}
        return {"inputs": self.inputs_length, "targets": self.targets_length}

    @property
    def capacity(self) -> tuple[int, ...]:
        """Length of a row, in tokens: of the encoder and of the decoder, or of the one stack there is."""
        if self.kind == "encoder":
            return (self.inputs_length,)
        if self.kind == "decoder":
            return (self.inputs_length + self.targets_length,)
        return (self.inputs_length, self.targets_length)

    def fit(self, example: Example) -> tuple[Example, bool]:
        """Return the layout's features without padding at their end, cut to `lengths`, and whether anything was cut.

        Raises:
          UserError: an encoder's features differ in length.
        """
        stacked = {name: example[name][None] for name in self.features}
        return self.fit_all(stacked, {name: np.array([len(example[name])]) for name in self.features})[0]

    def fit_all(self, stacked: Mapping[str, np.ndarray], sizes: Mapping[str, np.ndarray]) -> list[tuple[Example, bool]]:
        """Return what `fit` does of each of N examples.

        stacked: features, [N, L], L being as long as the longest.
        sizes:   how many of the L are the example's, [N].
        """
        if self.kind == "encoder":
            self._check_alike(sizes)
            used = dict.fromkeys(self.features, self._used(stacked["inputs"], sizes["inputs"]))
        else:
            used = {name: self._used(stacked[name], sizes[name]) for name in self.features}
        cut = np.any([used[name] > limit for name, limit in self.lengths.items()], axis=0)
        columns = [_pieces(stacked[name], np.minimum(used[name], limit)) for name, limit in self.lengths.items()]
        return [
            (dict(zip(self.features, kept, strict=True)), any_cut)
            for *kept, any_cut in zip(*columns, cut.tolist(), strict=True)
        ]

    def sizes(self, example: Example) -> tuple[int, ...]:
        """Return the tokens an example takes of each of `capacity`."""
        if self.kind == "encoder":
            return (len(example["inputs"]),)
        if self.kind == "decoder":
            return (sum(len(example[name]) for name in self.features),)
        return (len(example["inputs"]), len(example["targets"]))

    def predicts(self, example: Example) -> bool:
        """Whether there is anything in the example to learn from: one without a target fills no row."""
        return len(example["targets"]) > 0

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Return a batch of [len(rows), capacity] arrays; a row of no examples is padding with weight 0.

        The examples of a row are segments 1, 2, ...; the shift to the right happens inside each of them, from `bos_id`.
        """
        examples = [example for row in rows for example in row]
        counts = [len(row) for row in rows]

        def of(name: str) -> list[np.ndarray]:
            return [example[name] for example in examples]

        if self.kind == "encoder":
            places = _Places(counts, _sizes(of("inputs")), self.capacity[0])
            encoder = places.tokens(of("inputs"))
            if self.has_types:
                encoder = replace(encoder, types=places.put(of("types"), np.int32))
            targets, weights = places.put(of("targets"), np.int32), places.put(of("weights"), np.float32)
            return Batch(encoder=encoder, decoder=None, targets=targets, weights=weights)
        if self.kind == "encoder_decoder":
            encoder = _Places(counts, _sizes(of("inputs")), self.capacity[0]).tokens(of("inputs"))
            wanted = _Places(counts, _sizes(of("targets")), self.capacity[1]).tokens(of("targets"))
            return Batch(
                encoder=encoder,
                decoder=_shifted(wanted, self.bos_id),
                targets=wanted.ids,
                weights=(wanted.segments > 0).astype(np.float32),
            )
        given = _sizes(of("inputs")) if self.has_inputs else np.zeros(len(examples), np.int64)
        places = _Places(counts, given + _sizes(of("targets")), self.capacity[0])
        wanted = places.tokens([example[name] for example in examples for name in self.features])
        decoder = _shifted(wanted, self.bos_id)
        weights = (np.asarray(wanted.segments) > 0).astype(np.float32)
        if self.has_inputs:
            left = places.left(given)
            weights[places.put([left > 0], np.bool_)] = self.loss_on_inputs
            if not self.loss_on_inputs:
                # The start id and the inputs behind it: as many decoder positions as see no target.
                decoder = replace(decoder, prefix=places.put([left >= 0], np.int32))
        return Batch(encoder=None, decoder=decoder, targets=wanted.ids, weights=weights)

    def prompts(self, examples: Sequence[Example]) -> Batch:
        """Return what `Model.start` takes to generate targets: one unpacked row an example, no target in it.

        A decoder's prompt is the start id and the inputs, the decoder part of an encoder-decoder's the start id alone;
        an encoder's is its row. `targets` and `weights` are 0.
        """
        bare = [{**x, "targets": x["targets"][:0]} for x in examples] if self.kind != "encoder" else list(examples)
        batch = self.batch([[x] for x in bare])
        if self.kind == "encoder":
            zeros = np.zeros_like(batch.targets)
            return replace(batch, targets=zeros, weights=zeros.astype(np.float32))
        start = np.array([self.bos_id], np.int32)
        inputs = [x["inputs"] if self.kind == "decoder" and self.has_inputs else start[:0] for x in bare]
        width = 1 + (self.inputs_length if self.kind == "decoder" and self.has_inputs else 0)
        places = _Places([1] * len(inputs), 1 + _sizes(inputs), width)
        decoder = places.tokens([ids for given in inputs for ids in (start, given)])
        if self.kind == "decoder" and self.has_inputs and not self.loss_on_inputs:
            decoder = replace(decoder, prefix=(decoder.segments > 0).astype(np.int32))
        zeros = np.zeros_like(decoder.ids)
        return Batch(encoder=batch.encoder, decoder=decoder, targets=zeros, weights=zeros.astype(np.float32))

    def _check_alike(self, sizes: Mapping[str, np.ndarray]) -> None:
        odd = np.any([sizes[name] != sizes["inputs"] for name in self.features], axis=0)
        if odd.any():
            raise UserError(
                f"an encoder's {', '.join(self.features[:-1])} and {self.features[-1]} must be of equal length; an example has "
                + ", ".join(f"{sizes[name][odd.argmax()]} {name}" for name in self.features)
                + "."
            )

    def _used(self, ids: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Lengths without the padding at the end; a 0 before another id is a token."""
        if not self.zero_pads:
            return sizes
        places = np.arange(1, ids.shape[1] + 1)
        return np.max(places * ((ids != 0) & (places <= sizes[:, None])), axis=1, initial=0)


def _pieces(stacked: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Return the first `sizes` [N] values of each row, [N, L]; the rest of it is not kept in memory."""
    flat = stacked[np.arange(stacked.shape[1]) < sizes[:, None]]
    ends = np.cumsum(sizes).tolist()
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class _Places:
    """Where examples' tokens go: those of a row behind one another, rows filled up with 0.

    counts: examples of each row. sizes: tokens of each example, [N]. length: of a row.
    """

    def __init__(self, counts: Sequence[int], sizes: np.ndarray, length: int) -> None:
        self._shape = (len(counts), length)
        self._sizes = sizes
        rows = np.repeat(np.arange(len(counts)), counts)
        taken = np.bincount(rows, sizes, len(counts)).astype(np.int64)
        assert not taken.size or taken.max() <= length, "a row of more tokens than it has places"
        before = np.cumsum(sizes) - sizes
        count = np.arange(int(sizes.sum()))
        self._positions = count - np.repeat(before, sizes)
        self._at = count + np.repeat((rows * length - (np.cumsum(taken) - taken)[rows]), sizes)
        number = np.arange(1, len(sizes) + 1) - np.repeat(np.cumsum(counts) - counts, counts)
        self._segments = np.repeat(number, sizes)

    def put(self, pieces: Sequence[np.ndarray], dtype: type) -> np.ndarray:
        """Return values, one a token in the examples' order however they are cut, in their places: [rows, length]."""
        filled: np.ndarray = np.zeros(self._shape, dtype)
        if pieces:
            filled.reshape(-1)[self._at] = np.concatenate(pieces)
        return filled

    def tokens(self, pieces: Sequence[np.ndarray]) -> Tokens:
        """Return tokens with their positions and segments."""
        return Tokens(
            ids=self.put(pieces, np.int32),
            positions=self.put([self._positions], np.int32),
            segments=self.put([self._segments], np.int32),
        )

    def left(self, sizes: np.ndarray) -> np.ndarray:
        """Return how many of its example's first `sizes` [N] tokens each token is or stands before; 0 or less behind them."""
        return np.repeat(sizes, self._sizes) - self._positions


def _sizes(pieces: Sequence[np.ndarray]) -> np.ndarray:
    return np.fromiter((len(piece) for piece in pieces), np.int64, len(pieces))


def _shifted(tokens: Tokens, bos_id: int) -> Tokens:
    """Return the tokens one place later in their own segment, which starts with `bos_id`."""
    ids = np.roll(np.asarray(tokens.ids), 1, axis=1)
    ids = np.where(np.asarray(tokens.positions) == 0, np.int32(bos_id), ids)
    return replace(tokens, ids=np.where(np.asarray(tokens.segments) > 0, ids, np.int32(0)))

"""Evaluation with examples in the prompt and no training: zero-, one- and few-shot (Brown et al. 2020, https://arxiv.org/abs/2005.14165, section 2.4).

A prompt is text, `inputs between targets joint inputs between targets joint inputs`, the last inputs being the query's; the answer is what the model goes on
with, or the likeliest of the query's choices. For an encoder-decoder it is the encoder's input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from t2t.errors import UserError, nearest
from t2t.limits import Configuration, Count, CountOrZero, Few, Length, Seed
from t2t.vocabularies import Vocabulary

Calibration = Literal["none", "length", "unconditional", "contextual"]
CALIBRATIONS: tuple[Calibration, ...] = ("none", "length", "unconditional", "contextual")


@dataclass(frozen=True, kw_only=True)
class FewShot(Configuration):
    """How a task's examples are shown to a model before each query.

    Args:
        shots: examples before a query; 0 evaluates as the model was trained, and draws nothing.
        seeds: times that the examples are drawn, by seed, seed + 1, ...; metrics are means over them, with their standard deviation.
        seed: the first.
        split: of the task that examples are from; never the query itself, nor one of the same inputs.
        pool: first examples of that split to draw from.
        each: examples are drawn anew for each query (Brown et al.); False shows the same ones before all queries of a seed (Zhao et al. 2021).
        stratified: as many examples of each target as can be.
        between: text between inputs and targets.
        joint: text between an example and the next, or the query.
        as_text: decoders: no EOS behind the query's inputs, as tasks have it, but `between`: what a model goes on with that has seen text alone.
            The answer ends at the first `joint`. An encoder's inputs end in EOS all the same.
        fewer: leave out examples, the first ones first, where they do not fit; False refuses.
        length: tokens a prompt may have; None for the data's inputs_length.
        calibration: further scores of choices, each giving "rank_accuracy_NAME" beside "rank_accuracy":
            "length" a token's mean log-probability; "unconditional" less the log-probability of the choice after `answer_context` alone
            (both Brown et al. 2020, section 2.4); "contextual" less the log of its probability, among the choices, where
            `content_free` texts stand in the query's place, their mean (Zhao et al. 2021, https://arxiv.org/abs/2102.09690). "none" stands for none.
        answer_context: a prompt that says nothing but that an answer is due.
        content_free: inputs that say nothing. What all inputs of a task begin and end with, whole words of a prompt, stays around them.
    """

    shots: CountOrZero = 0
    seeds: Few = 1
    seed: Seed = 0
    split: str = "train"
    pool: Count = 1000
    each: bool = True
    stratified: bool = False
    between: str = "\n"
    joint: str = "\n\n"
    as_text: bool = False
    fewer: bool = False
    length: Length | None = None
    calibration: tuple[Calibration, ...] = ()
    answer_context: str = "Answer:"
    content_free: tuple[str, ...] = ("N/A", "[MASK]", "")

    def __post_init__(self) -> None:
        super().__post_init__()
        for calibration in self.calibration:
            if calibration not in CALIBRATIONS:
                raise UserError(
                    f"unknown calibration {calibration!r} (--evaluation.few-shot.calibration).{nearest(calibration, CALIBRATIONS)}"
                )
        if len(set(self.calibration)) != len(self.calibration) or (
            "none" in self.calibration and len(self.calibration) > 1
        ):
            raise UserError(
                f"calibration {' '.join(self.calibration)} (--evaluation.few-shot.calibration): name each once, and none alone."
            )
        if "contextual" in self.calibration and not self.content_free:
            raise UserError(
                "calibration contextual needs at least one text (--evaluation.few-shot.content-free). Nearest: N/A."
            )

    @property
    def prompted(self) -> bool:
        """Whether queries are written otherwise than the task does."""
        return self.shots > 0 or self.as_text

    @property
    def calibrations(self) -> tuple[Calibration, ...]:
        """The calibrations there are to compute."""
        return tuple(name for name in self.calibration if name != "none")

    @property
    def label(self) -> str:
        """What tells results from those of the task as it is: "" or "4-shot", "0-shot-text"."""
        return f"{self.shots}-shot{'-text' if self.as_text else ''}" if self.prompted else ""


class Shot(NamedTuple):
    """An example's texts."""

    inputs: str
    targets: str


class Prompt(NamedTuple):
    """A query's prompt: its tokens, EOS included where there is one, its text, and how many examples fitted."""

    ids: list[int]
    text: str
    shots: int


class Prompter:
    """Writes the prompts of one task and one seed, whatever the order in which they are asked for.

    room:   tokens a prompt may have.
    eos:    whether the task's inputs end in EOS.
    pool:   examples to draw from; of those with the same inputs the first, and the others only where there are too few.
    inputs: texts of queries, which tell what all have in common.
    """

    def __init__(
        self,
        few_shot: FewShot,
        seed: int,
        *,
        task: str,
        vocabulary: Vocabulary,
        shared: bool,
        room: int,
        eos: bool,
        pool: Sequence[Shot] = (),
        inputs: Sequence[str] = (),
    ) -> None:
        self.seed, self.room = seed, room
        self._few_shot, self._task, self._vocabulary = few_shot, task, vocabulary
        self._ends_in_text = few_shot.as_text and shared
        self._eos = eos and not self._ends_in_text
        self._pool = list({shot.inputs: shot for shot in reversed(pool)}.values())[::-1]
        self._repeats = _repeated(pool)
        self._frame = frame([*inputs, *(shot.inputs for shot in self._pool)])
        self._misfits: list[int] = []
        self.written = 0

    def prompt(self, inputs: str) -> Prompt:
        """Return the prompt of a query. With fewer examples than asked for where they do not fit; `check` tells of these."""
        return self._written(inputs, self.drawn(inputs))

    def content_free(self, inputs: str) -> list[list[int]]:
        """Return the query's prompt with each text that says nothing in the place of its inputs, ids."""
        before, behind = self._frame
        shown = self.drawn(inputs)
        return [
            self._written(f"{before}{text}{behind}", shown, count=False).ids for text in self._few_shot.content_free
        ]

    def answer_context(self) -> list[int]:
        """Return the prompt that says nothing but that an answer is due, ids."""
        return self._ids(self._few_shot.answer_context + self._few_shot.between * self._few_shot.as_text)

    def drawn(self, inputs: str) -> list[Shot]:
        """Return the examples before a query, in their order. Raises UserError where there are too few."""
        few_shot = self._few_shot
        if not few_shot.shots:
            return []
        key = repr((self.seed, self._task, inputs if few_shot.each else None))
        seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
        generator = np.random.Generator(np.random.PCG64(seed))
        order = [shot for shot in _permuted(generator, self._pool) if shot.inputs != inputs]
        if len(order) < few_shot.shots:
            order += [shot for shot in _permuted(generator, self._repeats) if shot.inputs != inputs]
        if len(order) < few_shot.shots:
            raise UserError(
                f"task {self._task!r}: {few_shot.shots} examples are to be shown (--shots), its first {few_shot.pool} of split"
                f" {few_shot.split!r} have {len(order)} others than the query. Nearest: {len(order)}."
            )
        if few_shot.stratified:
            seen: dict[str, int] = {}
            ranks = []
            for rank, shot in enumerate(order):
                target = shot.targets
                seen[target] = seen.get(target, 0) + 1
                ranks.append((seen[target], rank))
            order = [order[rank] for rank in sorted(rank for _, rank in sorted(ranks)[: few_shot.shots])]
        return order[: few_shot.shots]

    def answer(self, text: str) -> str:
        """Return what a model wrote without what comes behind the answer: where no EOS ends it, the next example would begin there."""
        return text.split(self._few_shot.joint)[0] if self._ends_in_text and self._few_shot.joint else text

    def check(self) -> None:
        """Raise UserError where examples did not fit and none may be left out."""
        if self._misfits and not self._few_shot.fewer:
            raise UserError(
                f"task {self._task!r}: {len(self._misfits)} of {self.written} prompts of {self._few_shot.shots} examples are longer than"
                f" {self.room} tokens (--data.inputs-length), the longest {max(self._misfits)}. Nearest: fewer --shots, --fewer-shots, or --prompt-length."
            )

    def _written(self, inputs: str, shown: Sequence[Shot], *, count: bool = True) -> Prompt:
        few_shot = self._few_shot
        end = few_shot.between if few_shot.as_text else ""
        for left_out in range(len(shown) + 1):
            kept = shown[left_out:]
            before = "".join(f"{shot.inputs}{few_shot.between}{shot.targets}{few_shot.joint}" for shot in kept)
            text = f"{before}{inputs}{end}"
            ids = self._ids(text)
            if not left_out and shown and len(ids) > self.room and count:
                self._misfits.append(len(ids))
            if len(ids) <= self.room:
                break
        self.written += count
        return Prompt(ids, text, len(kept))

    def _ids(self, text: str) -> list[int]:
        return [*self._vocabulary.encode(text), *([self._vocabulary.eos_id] if self._eos else [])]


def _repeated(pool: Sequence[Shot]) -> list[Shot]:
    """Return the examples of the same inputs as one before them."""
    seen: set[str] = set()
    repeats = []
    for shot in pool:
        if shot.inputs in seen:
            repeats.append(shot)
        seen.add(shot.inputs)
    return repeats


def _permuted(generator: np.random.Generator, shots: Sequence[Shot]) -> list[Shot]:
    return [shots[place] for place in generator.permutation(len(shots)).tolist()]


def frame(texts: Sequence[str]) -> tuple[str, str]:
    """Return the words that all texts begin with and those that all end with, white space included; nothing where there is one text alone."""
    different = sorted(set(texts))
    if len(different) < 2:
        return "", ""
    # Of sorted texts the first and the last differ the most.
    before = _common(different[0], different[-1])
    rest = sorted(text[len(before) :][::-1] for text in different)
    return before, _common(rest[0], rest[-1])[::-1]


def _common(one: str, other: str) -> str:
    """Return the whole words that both begin with, white space behind them included."""
    end = 0
    for place, (a, b) in enumerate(zip(one, other, strict=False), 1):
        if a != b:
            break
        end = place if a.isspace() else end
    return one[:end]

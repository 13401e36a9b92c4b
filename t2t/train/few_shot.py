"""Zero-, one- and few-shot evaluation: examples in the prompt, no training (Brown et al. 2020, https://arxiv.org/abs/2005.14165, section 2.4).

A prompt is the text `inputs between targets joint inputs between targets joint inputs`. The last inputs are those of the query. The answer is
the generated continuation, or the most likely of the query's choices. In an encoder-decoder, the prompt is the input of the encoder.
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
    """How to show examples of a task to the model before each query.

    Args:
        shots: number of examples before a query. 0 uses the inputs of the task without examples.
        seeds: number of times the examples are drawn, with seed, seed + 1, ... Metrics are means over the seeds, with standard deviations.
        seed: the first seed.
        split: split that the examples are drawn from. The query itself, and examples with the same inputs, are never drawn.
        pool: number of examples to draw from, from the start of that split.
        each: draw new examples for each query (Brown et al.). False shows the same examples before all queries of a seed (Zhao et al. 2021).
        stratified: draw the same number of examples for each target, if possible.
        between: text between inputs and targets.
        joint: text between two examples, and between the last example and the query.
        as_text: only decoders: the query's inputs end with `between` instead of EOS, for a model that was trained on plain text only.
            The answer ends at the first `joint`. The inputs of an encoder still end with EOS.
        fewer: leave out examples, from the first one, if they do not fit. False raises an error.
        length: maximum number of tokens of a prompt. None uses the data's inputs_length.
        calibration: additional scores of choices. Each adds the metric "rank_accuracy_NAME" to "rank_accuracy".
            "length" is the mean log-probability per token. "unconditional" subtracts the log-probability of the choice after `answer_context`
            (both Brown et al. 2020, section 2.4). "contextual" subtracts the log of the choice's mean probability, among the choices, with
            each of the `content_free` texts in place of the query (Zhao et al. 2021, https://arxiv.org/abs/2102.09690). "none" adds nothing.
        answer_context: a prompt without content that only asks for an answer.
        content_free: inputs without content. The words that all inputs of a task start and end with are kept around them.
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
                f"calibration {' '.join(self.calibration)} (--evaluation.few-shot.calibration): name each one once, and 'none' only alone."
            )
        if "contextual" in self.calibration and not self.content_free:
            raise UserError(
                "calibration contextual needs at least one text (--evaluation.few-shot.content-free). Nearest: N/A."
            )

    @property
    def prompted(self) -> bool:
        """Whether prompts differ from the inputs of the task."""
        return self.shots > 0 or self.as_text

    @property
    def calibrations(self) -> tuple[Calibration, ...]:
        """The calibrations to compute."""
        return tuple(name for name in self.calibration if name != "none")

    @property
    def label(self) -> str:
        """Label of the results: "4-shot", "0-shot-text"; "" if prompts are the inputs of the task."""
        return f"{self.shots}-shot{'-text' if self.as_text else ''}" if self.prompted else ""


class Shot(NamedTuple):
    """The texts of an example."""

    inputs: str
    targets: str


class Prompt(NamedTuple):
    """The prompt of a query: its ids, with EOS if there is one, its text, and the number of examples in it."""

    ids: list[int]
    text: str
    shots: int


class Prompter:
    """Writes the prompts of one task and one seed. They do not depend on the order of the calls.

    room:   maximum number of tokens of a prompt.
    eos:    whether the task's inputs end in EOS.
    pool:   examples to draw from. Of examples with the same inputs, only the first is used, unless there are too few.
    inputs: texts of the queries, to find their common words.
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
        """Return the prompt of a query. It has fewer examples if they do not all fit; `check` reports this."""
        return self._written(inputs, self.drawn(inputs))

    def content_free(self, inputs: str) -> list[list[int]]:
        """Return the ids of the query's prompt, once for each content-free text in place of its inputs."""
        before, after = self._frame
        shown = self.drawn(inputs)
        return [self._written(f"{before}{text}{after}", shown, count=False).ids for text in self._few_shot.content_free]

    def answer_context(self) -> list[int]:
        """Return the ids of the prompt that only asks for an answer."""
        return self._ids(self._few_shot.answer_context + self._few_shot.between * self._few_shot.as_text)

    def drawn(self, inputs: str) -> list[Shot]:
        """Return the examples before a query, in order. Raises UserError if there are too few."""
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
                f"task {self._task!r}: {few_shot.shots} examples are needed (--shots), but the first {few_shot.pool} of split"
                f" {few_shot.split!r} have only {len(order)} that differ from the query. Nearest: {len(order)}."
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
        """Return the generated text up to the end of the answer. Without EOS, the model may continue with a next example."""
        return text.split(self._few_shot.joint)[0] if self._ends_in_text and self._few_shot.joint else text

    def check(self) -> None:
        """Raise UserError if examples did not fit and `fewer` is False."""
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
    """Return the examples that have the same inputs as an earlier one."""
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
    """Return the words that all texts start with and the words that all texts end with, with white space. Both are "" for a single text."""
    different = sorted(set(texts))
    if len(different) < 2:
        return "", ""
    # Of sorted texts, the first and the last have the shortest common prefix.
    before = _common(different[0], different[-1])
    rest = sorted(text[len(before) :][::-1] for text in different)
    return before, _common(rest[0], rest[-1])[::-1]


def _common(one: str, other: str) -> str:
    """Return the whole words that both texts start with, with the white space after them."""
    end = 0
    for place, (a, b) in enumerate(zip(one, other, strict=False), 1):
        if a != b:
            break
        end = place if a.isspace() else end
    return one[:end]

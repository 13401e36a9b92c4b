"""`t2t infer`: ask a trained run. Loads neither TensorFlow nor SeqIO."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import jax
import tyro

from t2t.api.escapes import visible
from t2t.decode import MASK, Beam, Candidate, Decoding, Greedy, Output, Pooling, Sampling, fill_texts, generate_texts
from t2t.decode.config import LengthPenalty, Temperature, TopK, TopP
from t2t.errors import UserError, nearest, writing
from t2t.launch import infer_answers
from t2t.launch.infer_inputs import Name, texts_of
from t2t.launch.infer_lengths import Lengths, Way
from t2t.launch.infer_memory import rows_that_fit
from t2t.launch.infer_output import opened
from t2t.limits import CountOrZero, Few, Generated, Ids, Rows, Seed
from t2t.paths import LocalPath, check_output

if TYPE_CHECKING:
    from t2t.train.run import SavedRun

AT_ONCE = 1024
"""Texts that are sorted by length together; their answers are written before the next are begun."""


def command(
    run: Annotated[LocalPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    text: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    second: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    input: LocalPath | None = None,
    output: LocalPath | None = None,
    step: CountOrZero | None = None,
    decoding: Literal["greedy", "sample", "beam"] | None = None,
    temperature: Temperature | None = None,
    top_k: TopK | None = None,
    top_p: TopP | None = None,
    samples: Few | None = None,
    beams: Few | None = None,
    length_penalty: LengthPenalty | None = None,
    max_length: Generated | None = None,
    continue_text: bool = False,
    top: Ids | None = None,
    embed: Pooling | None = None,
    normalise: bool = False,
    too_long: Way = "stop",
    seed: Seed = 0,
    batch_size: Rows = 32,
) -> None:
    """Answer texts with a run's model: generate, or with an encoder fill in each `<mask>`, give the label, the tags or the span it was trained for.

    Answers to --text are printed as text, those to --input as JSON lines: the input's own fields, "prediction", "score" (the sum of
    the log-probabilities; of beam search divided by the length penalty), "ended" (false where --max-length cut it off), and
    "predictions" where there are several. An encoder gives "masks": the likeliest tokens of each; one with another head "probability" or
    "probabilities", and "words" beside tags; with --embed a JSON line a text in any case, with "embedding".

    Args:
        run: the run's directory.
        text: a text to answer, with the task's prefix ("summarize: ..."); may be given again. Sentinels are written <extra_id_0>.
        second: the second text of a pair, or the text that a question is asked of, one for each --text.
        input: a file with a text a line, or .jsonl with "inputs", and for pairs "second", in each object; - reads texts from standard input.
        output: where to write JSON lines; standard output if not given.
        step: which checkpoint; the newest if not given.
        decoding: how to generate; what the options below imply if not given, else greedy.
        temperature: of sampling; 1 if not given.
        top_k: sample from the k likeliest tokens; 0 for all.
        top_p: sample from the likeliest tokens that hold this probability; 1 for all.
        samples: answers to each text: samples, or the best of a beam.
        beams: hypotheses of beam search; 4 if not given.
        length_penalty: alpha of beam search's length penalty; 0.6 if not given.
        max_length: tokens to generate at most; the run's targets_length if not given. Of a span: its tokens at most; any number if not given.
        continue_text: decoders: go on with the text itself, as a language model; else an end-of-sequence token stands behind it, as behind a
            task's inputs.
        top: encoders: how many candidates for a mask; 5 if not given.
        embed: encoders: give a vector for each text, the mean of the encoder's output over its tokens or that of its first.
        normalise: divide each vector by its length, so that products of two are cosines.
        too_long: of a text longer than the model's positions, or than memory allows: stop with an error, truncate it (its end is left out; of a pair the second text's), or skip it.
        seed: of sampling.
        batch_size: texts computed at a time.

    Raises:
        UserError: no such run, checkpoint or file, a line that cannot be read, options that do not go together, a text too long
            for the model.
    """
    how = choose(
        decoding,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        samples=samples,
        beams=beams,
        length_penalty=length_penalty,
    )
    rows, name = texts_of(text, second, input)
    if output is not None:
        check_output(output, "--output")

    from t2t.api.user_code.loading import load_run

    loaded = load_run(run, step)
    kind, predicts = loaded.experiment.model.kind, loaded.experiment.model.output
    if second and (predicts not in ("label", "span") or embed is not None):
        raise UserError(
            f"--second {second[0]}: it is for encoders that label pairs or find spans; {run} {_what(kind, predicts)}."
        )
    if normalise and embed is None:
        raise UserError("--normalise: it is for --embed, which was not given. Nearest: --embed mean.")
    if kind == "encoder":
        _refuse(
            {
                "--decoding": decoding,
                "--temperature": temperature,
                "--top-k": top_k,
                "--top-p": top_p,
                "--samples": samples,
                "--beams": beams,
                "--length-penalty": length_penalty,
                "--max-length": None if predicts == "span" and embed is None else max_length,
                "--continue-text": continue_text or None,
            },
            f"{run} is an encoder, which generates nothing but {_what(kind, predicts)}; --top is its option."
            if predicts == "words"
            else f"{run} is an encoder, which generates nothing but {_what(kind, predicts)}.",
        )
        if predicts != "words" or embed is not None:
            _refuse({"--top": top}, "it is for encoders that fill in masks.")
    else:
        _refuse({"--top": top}, f"{run} is a model of kind {kind}; --top is for encoders.")
        if continue_text and kind != "decoder":
            raise UserError(f"--continue-text: {run} is a model of kind {kind}; only decoders go on with a text.")

    params = loaded.params()

    lengths = Lengths(too_long, loaded.vocabulary)

    def ask(some: Sequence[dict[str, Any]], place: Name, *, start: int) -> list[dict[str, Any]]:
        texts = [row["inputs"] for row in some]
        at_once = rows_that_fit(loaded, some, batch_size, place)
        if embed is not None:
            vectors = infer_answers.embed(
                loaded,
                texts,
                pooling=embed,
                normalise=normalise,
                batch_size=at_once,
                params=params,
                name=place,
            )
            return [{**row, "embedding": vector} for row, vector in zip(some, vectors, strict=True)]
        if predicts != "words":
            told = infer_answers.answer(loaded, some, longest=max_length, batch_size=at_once, params=params, name=place)
            return [{**row, **one} for row, one in zip(some, told, strict=True)]
        if kind == "encoder":
            filled = fill(loaded, texts, top=5 if top is None else top, batch_size=at_once, params=params, name=place)
            return [{**row, **_filled(row["inputs"], masks)} for row, masks in zip(some, filled, strict=True)]
        made = infer(
            loaded,
            texts,
            how,
            max_length=max_length,
            batch_size=at_once,
            seed=seed + start,
            continue_text=continue_text,
            params=params,
            name=place,
        )
        return [{**row, **_generated(outputs)} for row, outputs in zip(some, made, strict=True)]

    def answers() -> Iterator[dict[str, Any]]:
        for start in range(0, len(rows), AT_ONCE):

            def place(i: int, start: int = start) -> str:
                return name(start + i)

            yield from lengths.asked(partial(ask, start=start), rows[start : start + AT_ONCE], place)

    if output is None:
        with writing("standard output"):
            _write(answers(), sys.stdout, readable=input is None and embed is None)
    else:
        with opened(output) as file:
            _write(answers(), file, readable=False)
    if lengths.told is not None:
        print(lengths.told, file=sys.stderr)


def infer(
    run: SavedRun,
    texts: Sequence[str],
    decoding: Decoding | None = None,
    *,
    max_length: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    continue_text: bool = False,
    params: Any = None,
    name: Name = lambda i: f"text {i + 1}",
) -> list[list[Output]]:
    """Return the outputs for each text, in their order, by a run that is no encoder.

    Args:
      run: loaded; its parameters are read unless `params` are given.
      decoding: greedy if None.
      max_length: tokens to generate at most; None for the run's targets_length.
      continue_text: go on with the text itself: no EOS behind it.
      name: what the i-th text is called in errors.

    Raises:
      UserError: an encoder; a text too long for the model's positions.
    """
    return generate_texts(
        run.model,
        run.params() if params is None else params,
        run.vocabulary,
        texts,
        Greedy() if decoding is None else decoding,
        length=run.experiment.data.targets_length if max_length is None else max_length,
        batch_size=batch_size,
        key=jax.random.key(seed),
        closed=not continue_text,
        name=name,
    )


def fill(
    run: SavedRun,
    texts: Sequence[str],
    *,
    top: int = 5,
    batch_size: int = 32,
    params: Any = None,
    name: Name = lambda i: f"text {i + 1}",
) -> list[list[list[Candidate]]]:
    """Return the `top` candidates for each `<mask>` of each text, by an encoder's run.

    Raises:
      UserError: a run that is no encoder; a text without a mask, or too long for the model's positions.
    """
    return fill_texts(
        run.model,
        run.params() if params is None else params,
        run.vocabulary,
        texts,
        top=top,
        batch_size=batch_size,
        name=name,
    )


def choose(
    decoding: str | None,
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    samples: int | None = None,
    beams: int | None = None,
    length_penalty: float | None = None,
) -> Decoding:
    """Return how to decode from what the command line says; None is what it does not say.

    Raises:
      UserError: an unknown way, or options of another way than the one asked for, which would have no effect.
    """
    sampling = {"--temperature": temperature, "--top-k": top_k, "--top-p": top_p}
    beam = {"--beams": beams, "--length-penalty": length_penalty}
    if decoding is None:
        wants_sampling = any(value is not None for value in sampling.values())
        wants_beam = any(value is not None for value in beam.values())
        decoding = "beam" if wants_beam else "sample" if wants_sampling or samples is not None else "greedy"
    if decoding == "sample":
        _refuse(beam, "it is for --decoding beam, not sample.")
        return Sampling(
            temperature=1.0 if temperature is None else temperature,
            top_k=0 if top_k is None else top_k,
            top_p=1.0 if top_p is None else top_p,
            samples=1 if samples is None else samples,
        )
    if decoding == "beam":
        _refuse(sampling, "it is for --decoding sample, not beam.")
        return Beam(
            size=4 if beams is None else beams,
            length_penalty=0.6 if length_penalty is None else length_penalty,
            return_n=1 if samples is None else samples,
        )
    if decoding != "greedy":
        ways = ("greedy", "sample", "beam")
        raise UserError(f"unknown decoding {decoding!r} (--decoding).{nearest(decoding, ways)}")
    _refuse({**sampling, **beam, "--samples": samples}, "it has no effect with --decoding greedy.")
    return Greedy()


def _refuse(options: dict[str, Any], why: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise UserError(f"{option} {value}: {why}")


def _what(kind: str, predicts: str) -> str:
    if kind != "encoder":
        return f"is a model of kind {kind}"
    return {
        "words": f"fills in {MASK}",
        "label": "labels texts",
        "tags": "tags words",
        "span": "finds a span of --second that answers --text",
    }[predicts]


def _generated(outputs: Sequence[Output]) -> dict[str, Any]:
    found = [{"prediction": o.text, "score": _number(o.score), "ended": o.ended} for o in outputs]
    return found[0] if len(found) == 1 else {**found[0], "predictions": found}


def _filled(text: str, masks: Sequence[Sequence[Candidate]]) -> dict[str, Any]:
    # [MASK] is what vocabularies call it; a text may have either.
    pieces = text.replace("[MASK]", MASK).split(MASK)
    best = [mask[0].text for mask in masks]
    filled = "".join(piece + token for piece, token in zip(pieces, [*best, ""], strict=True))
    return {
        "prediction": filled,
        "masks": [[{"text": c.text, "id": c.id, "probability": c.probability} for c in mask] for mask in masks],
    }


def _number(value: float) -> float | None:
    return value if abs(value) != float("inf") else None


def _write(answers: Iterator[dict[str, Any]], out: TextIO, *, readable: bool) -> None:
    # An encoding without a text's characters would replace them; JSON can spell them.
    spelt = not (out.encoding or "utf-8").lower().startswith("utf")
    for answer in answers:
        file = io.StringIO()
        if not readable:
            file.write(json.dumps(answer, ensure_ascii=spelt) + "\n")
        elif "probability" in answer or "words" in answer:
            file.write(f"{infer_answers.readable(answer)}\n")
        elif "masks" in answer:
            file.write(f"{answer['prediction']}\n")
            for number, mask in enumerate(answer["masks"], start=1):
                shown = "  ".join(f"{candidate['text']!r} {candidate['probability']:.3f}" for candidate in mask)
                file.write(f"  mask {number}: {shown}\n")
        elif "predictions" in answer:
            for one in answer["predictions"]:
                score = "   -inf" if one["score"] is None else f"{one['score']:7.3f}"
                file.write(f"{score}  {one['prediction']}\n")
        else:
            file.write(f"{answer['prediction']}\n")
        out.write(visible(file.getvalue()) if out.isatty() else file.getvalue())
        out.flush()

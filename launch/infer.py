"""`t2t infer`: ask a trained run. Loads neither TensorFlow nor SeqIO."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import tyro

from t2t import former_names
from t2t.api import inference
from t2t.api.escapes import visible
from t2t.api.inference import does
from t2t.api.lengths import Lengths, Name, Rows, Way
from t2t.decode import MASK, Beam, Candidate, Decoding, Greedy, Label, Output, Pooling, Sampling, Span
from t2t.decode.config import LengthPenalty, Temperature, TopK, TopP
from t2t.errors import UserError, nearest, writing
from t2t.launch.infer_inputs import texts_of
from t2t.launch.infer_output import opened
from t2t.limits import CountOrZero, Few, Generated, Ids, Seed
from t2t.limits import Rows as BatchRows
from t2t.paths import LocalPath, check_output

if TYPE_CHECKING:
    from t2t.train.run import SavedRun


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
    batch_size: BatchRows = 32,
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
    model = loaded.experiment.model
    if second and (not (model.can("classify") or model.can("find_span")) or embed is not None):
        raise UserError(
            f"--second {second[0]}: it is for encoders that label pairs or find spans; {run} {does(model)}."
        )
    if normalise and embed is None:
        raise UserError("--normalise: it is for --embed, which was not given. Nearest: --embed mean.")
    if not model.can("generate"):
        _refuse(
            {
                "--decoding": decoding,
                "--temperature": temperature,
                "--top-k": top_k,
                "--top-p": top_p,
                "--samples": samples,
                "--beams": beams,
                "--length-penalty": length_penalty,
                "--max-length": None if model.can("find_span") and embed is None else max_length,
                "--continue-text": continue_text or None,
            },
            f"{run} is an encoder, which generates nothing but {does(model)}; --top is its option."
            if model.can("fill_mask")
            else f"{run} is an encoder, which generates nothing but {does(model)}.",
        )
        if not model.can("fill_mask") or embed is not None:
            _refuse({"--top": top}, "it is for encoders that fill in masks.")
    else:
        _refuse({"--top": top}, f"{run} is a model of kind {model.kind}; --top is for encoders.")
        if continue_text and not model.can("continue_text"):
            raise UserError(f"--continue-text: {run} is a model of kind {model.kind}; only decoders go on with a text.")

    params = loaded.params()

    lengths = Lengths(too_long, loaded.vocabulary)

    def fields(some: Rows, at_once: int, place: Name, start: int) -> list[dict[str, Any]]:
        """Return what is written of each row beside its own fields."""
        texts = [row["inputs"] for row in some]
        same: dict[str, Any] = {"batch_size": at_once, "params": params, "name": place}
        if embed is not None:
            vectors = inference.embed(loaded, texts, pooling=embed, normalise=normalise, **same)
            return [{"embedding": vector} for vector in vectors]
        if not (model.can("generate") or model.can("fill_mask")):
            return [_answered(loaded, one) for one in inference.answer(loaded, some, longest=max_length, **same)]
        if model.can("fill_mask"):
            filled = inference.fill(loaded, texts, top=5 if top is None else top, **same)
            return [_filled(text, masks) for text, masks in zip(texts, filled, strict=True)]
        made = inference.infer(
            loaded, texts, how, max_length=max_length, seed=seed + start, continue_text=continue_text, **same
        )
        return [_generated(outputs) for outputs in made]

    def answers() -> Iterator[dict[str, Any]]:
        found = inference.asked(loaded, rows, fields, lengths=lengths, batch_size=batch_size, name=name)
        return ({**row, **more} for row, more in found)

    if output is None:
        with writing("standard output"):
            _write(answers(), sys.stdout, readable=input is None and embed is None)
    else:
        with opened(output) as file:
            _write(answers(), file, readable=False)
    if lengths.message is not None:
        print(lengths.message, file=sys.stderr)


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


def _answered(run: SavedRun, answer: inference.Answer) -> dict[str, Any]:
    """Return the fields of a label ("prediction", "probability", "probabilities" of all labels), of tags ("prediction", with spaces between, "words",
    "probabilities") or of a span ("prediction", as the text has it, "word" and "start", the number of its first word and its character, -1 for none, "probability").
    """
    if isinstance(answer, Span):
        return {
            "prediction": answer.text,
            "word": answer.word,
            "start": answer.start,
            "probability": answer.probability,
        }
    if isinstance(answer, Label):
        return {
            "prediction": answer.text,
            "probability": max(answer.probabilities),
            "probabilities": dict(zip(run.model.config.labels, answer.probabilities, strict=True)),
        }
    return {
        "prediction": " ".join(label.text for _, label in answer),
        "words": [word for word, _ in answer],
        "probabilities": [max(label.probabilities) for _, label in answer],
    }


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


def _readable(answer: dict[str, Any]) -> str:
    """Return a label with its probability, words with their tags, or a span with its probability, as a line."""
    if "words" in answer:
        tags = answer["prediction"].split()
        return " ".join(f"{word}/{tag}" for word, tag in zip(answer["words"], tags, strict=True))
    return f"{answer['prediction'] or '(no answer)'}  {answer['probability']:.3f}"


def _write(answers: Iterator[dict[str, Any]], out: TextIO, *, readable: bool) -> None:
    # An encoding without a text's characters would replace them; JSON can spell them.
    spelt = not (out.encoding or "utf-8").lower().startswith("utf")
    for answer in answers:
        file = io.StringIO()
        if not readable:
            file.write(json.dumps(answer, ensure_ascii=spelt) + "\n")
        elif "probability" in answer or "words" in answer:
            file.write(f"{_readable(answer)}\n")
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


if not TYPE_CHECKING:
    __getattr__ = former_names.of(__name__)

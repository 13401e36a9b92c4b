"""`t2t infer`: generate answers with a trained run. Imports neither TensorFlow nor SeqIO."""

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
from t2t.api.mixing import chosen_in, mixture_of, with_adapters
from t2t.decode import (
    MASK,
    Beam,
    Candidate,
    Decoding,
    Greedy,
    Label,
    LabelSet,
    Numbers,
    Output,
    Pooling,
    Sampling,
    Span,
)
from t2t.decode.config import LengthPenalty, Temperature, TopK, TopP
from t2t.errors import UserError, nearest, writing
from t2t.launch.infer_inputs import conversations_of, texts_of
from t2t.launch.infer_output import open_output
from t2t.limits import CountOrZero, Few, Generated, Ids, Seed
from t2t.limits import Rows as BatchRows
from t2t.nn.capabilities import OF_TEXT
from t2t.nn.weights import Quantize
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
    plain_weights: bool = False,
    quantize: Quantize = "none",
    adapter: Annotated[tuple[LocalPath, ...], tyro.conf.UseAppendAction] = (),
    decoding: Literal["greedy", "sample", "beam"] | None = None,
    temperature: Temperature | None = None,
    top_k: TopK | None = None,
    top_p: TopP | None = None,
    samples: Few | None = None,
    beams: Few | None = None,
    length_penalty: LengthPenalty | None = None,
    max_length: Generated | None = None,
    continue_text: bool = False,
    chat: bool = False,
    chat_template: LocalPath | None = None,
    top: Ids | None = None,
    embed: Literal["default", Pooling] | None = None,
    normalise: bool = False,
    too_long: Way = "stop",
    seed: Seed = 0,
    batch_size: BatchRows = 32,
) -> None:
    """Generate answers to texts with a run's model. An encoder fills in each `<mask>`, or returns the labels, numbers, tags or span of its head.

    Answers to --text are printed as text, answers to --input as JSON lines. A JSON line has the input's fields, "prediction", "score" (the sum of
    the log-probabilities; beam search divides it by the length penalty), "ended" (false if --max-length cut the answer off), and
    "predictions" if there are several answers. An encoder that fills in masks adds "masks" (the most likely tokens of each mask). Other encoders
    add "probability" or "probabilities", and "words" for tags; a number is the "prediction" itself. --embed always prints JSON lines, with "embedding".

    Args:
        run: the run's directory.
        text: text to answer, with the task's prefix ("summarize: ..."). Can be repeated. Write sentinels as <extra_id_0>.
        second: the second text of a pair, or the context of a question: one for each text (--text).
        input: text file with one text per line, or .jsonl file of objects with "inputs" (pairs: also "second"). - reads texts from standard input.
        output: file for the JSON lines. Default: standard output.
        step: checkpoint to load. Default: the newest.
        plain_weights: use the trained parameters of a run with a running mean (--ema.decay), instead of the mean.
        quantize: store the kernels of linear layers in this format while the model is in memory, for less memory; see docs/quantization.md.
        adapter: directory of a run with a LoRA of this run, which then answers with it. Can be repeated: once for each --text, or for a .jsonl file whose objects
            name theirs in the field "adapter" (null for none). Texts with different adapters share batches.
        decoding: decoding method. Default: the method that the options below belong to, or greedy if none is given.
        temperature: sampling temperature. Default: 1.
        top_k: sample from the k most likely tokens; 0 for all.
        top_p: sample from the smallest set of most likely tokens with at least this total probability; 1 for all.
        samples: answers per text: the number of samples, or the best hypotheses of beam search.
        beams: number of hypotheses of beam search. Default: 4.
        length_penalty: alpha of beam search's length penalty. Default: 0.6.
        max_length: maximum number of tokens to generate. Default: the run's targets_length. For spans: maximum tokens of a span, by default unlimited.
        continue_text: decoders: continue the text itself, as a language model does. Otherwise an end-of-sequence token is appended to the text,
            as to a task's inputs.
        chat: decoders: answer conversations with the model's chat template. --text is one user message, --input a .jsonl file with "messages".
            Without both, talk in the terminal.
        chat_template: file with a chat template for --chat: Jinja text or a tokenizer_config.json. Default: the one that came with the model.
        top: encoders: number of candidates for each mask. Default: 5.
        embed: encoders: print a vector for each text, from the encoder's outputs over its n tokens: their mean, the output of the first or last token, the
            maximum of each dimension, their mean with weights 1 to n (weighted_mean), or their sum divided by the square root of n (mean_sqrt). Without a
            value: as the model was trained or imported, else the mean.
        normalise: divide each vector by its length, so that the dot product of two vectors is their cosine. Sentence encoders that were trained
            with this do it without the option.
        too_long: for a text that exceeds the model's positions or the memory: stop with an error, truncate its end (of a pair: the end of the
            second text), or skip it.
        seed: sampling seed.
        batch_size: texts per batch.

    Raises:
        UserError: the run, the checkpoint or a file is not found, a line cannot be read, options do not fit together, or a text is too long
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
    talking = chat and not text and input is None
    if talking:
        _refuse({"--output": output}, "a conversation in the terminal is not written to a file. Nearest: --input FILE.")
    if chat:
        others = {"--second": second or None, "--embed": embed, "--top": top, "--continue-text": continue_text or None}
        _refuse(others, "this option has no effect with --chat.")
        _refuse({"--adapter": " ".join(adapter) or None}, "this option has no effect with --chat.")
        if too_long == "truncate":
            raise UserError("--too-long truncate would cut the end of a prompt of --chat. Nearest: --too-long skip.")
    else:
        _refuse({"--chat-template": chat_template}, "this option is for --chat.")
    rows, name = _conversations(text, input) if chat else texts_of(text, second, input)
    if adapter:
        each = len(adapter) == len(text)
        rows = with_adapters(rows, adapter) if each else chosen_in(rows, adapter, name)
    if output is not None:
        check_output(output, "--output")

    from t2t.api.user_code.loading import load_run

    loaded = load_run(run, step, plain_weights=plain_weights, quantize=quantize)
    model = loaded.experiment.model
    if second and (not (model.output in OF_TEXT or model.can("find_span")) or embed is not None):
        raise UserError(
            f"--second {second[0]}: this option is for encoders that label pairs, predict numbers or find spans; {run} {does(model)}."
        )
    if model.output == "vectors" and embed is None:
        raise UserError(f"{run} has no head: it {does(model)}. Nearest: --embed.")
    if normalise and embed is None:
        raise UserError("--normalise needs --embed, which is missing. Nearest: --embed.")
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
                "--adapter": " ".join(adapter) or None,
            },
            f"{run} is an encoder, which cannot generate: it {does(model)}; its option is --top."
            if model.can("fill_mask")
            else f"{run} is an encoder, which cannot generate: it {does(model)}.",
        )
        if not model.can("fill_mask") or embed is not None:
            _refuse({"--top": top}, "this option is for encoders that fill in masks.")
    else:
        _refuse({"--top": top}, f"{run} is a model of kind {model.kind}; --top is for encoders.")
        if continue_text and not model.can("continue_text"):
            raise UserError(f"--continue-text: {run} is a model of kind {model.kind}; only decoders continue a text.")

    talk = None
    if chat:
        from t2t.api.chat import chat_of
        from t2t.launch.chat import converse, prompts_of

        talk = chat_of(loaded, chat_template)
        rows = prompts_of(talk, rows, name)
    params = loaded.params()
    mixture = mixture_of(loaded, params, list(dict.fromkeys(adapter))) if adapter else None

    lengths = Lengths(too_long, loaded.vocabulary)

    def fields(some: Rows, at_once: int, place: Name, start: int) -> list[dict[str, Any]]:
        """Return the fields to add to each row."""
        texts = [row["inputs"] for row in some]
        same: dict[str, Any] = {"batch_size": at_once, "params": params, "name": place}
        if embed is not None:
            pooling = None if embed == "default" else embed
            vectors = inference.embed(loaded, texts, pooling=pooling, normalise=normalise or None, **same)
            return [{"embedding": vector} for vector in vectors]
        if not (model.can("generate") or model.can("fill_mask")):
            return [_answered(loaded, one) for one in inference.answer(loaded, some, longest=max_length, **same)]
        if model.can("fill_mask"):
            filled = inference.fill(loaded, texts, top=5 if top is None else top, **same)
            return [_filled(text, masks) for text, masks in zip(texts, filled, strict=True)]
        same |= {"max_length": max_length, "seed": seed + start}
        if talk is not None:
            return [_generated(outputs) for outputs in talk.replies(loaded, texts, how, **same)]
        adapters = [row.get("adapter") for row in some]
        generated = inference.infer(
            loaded, texts, how, continue_text=continue_text, mixture=mixture, adapters=adapters, **same
        )
        return [_generated(outputs) for outputs in generated]

    def answers(rows: Rows = rows) -> Iterator[dict[str, Any]]:
        found = inference.asked(loaded, rows, fields, lengths=lengths, batch_size=batch_size, name=name)
        return ({**(row if talk is None else row["row"]), **more} for row, more in found)

    if talk is not None and talking:
        converse(lambda messages: next(answers(prompts_of(talk, [{"messages": messages}], name))))
        return
    if output is None:
        with writing("standard output"):
            _write(answers(), sys.stdout, readable=input is None and embed is None)
    else:
        with open_output(output) as file:
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
    """Return the decoding method from the command line's options; None means that an option was not given.

    Raises:
      UserError: the method is unknown, or an option belongs to another method and would have no effect.
    """
    sampling = {"--temperature": temperature, "--top-k": top_k, "--top-p": top_p}
    beam = {"--beams": beams, "--length-penalty": length_penalty}
    if decoding is None:
        wants_sampling = any(value is not None for value in sampling.values())
        wants_beam = any(value is not None for value in beam.values())
        decoding = "beam" if wants_beam else "sample" if wants_sampling or samples is not None else "greedy"
    if decoding == "sample":
        _refuse(beam, "this option is for --decoding beam, not sample.")
        return Sampling(
            temperature=1.0 if temperature is None else temperature,
            top_k=0 if top_k is None else top_k,
            top_p=1.0 if top_p is None else top_p,
            samples=1 if samples is None else samples,
        )
    if decoding == "beam":
        _refuse(sampling, "this option is for --decoding sample, not beam.")
        return Beam(
            size=4 if beams is None else beams,
            length_penalty=0.6 if length_penalty is None else length_penalty,
            return_n=1 if samples is None else samples,
        )
    if decoding != "greedy":
        ways = ("greedy", "sample", "beam")
        raise UserError(f"unknown decoding {decoding!r} (--decoding).{nearest(decoding, ways)}")
    _refuse({**sampling, **beam, "--samples": samples}, "this option has no effect with --decoding greedy.")
    return Greedy()


def _conversations(texts: Sequence[str], path: str | None) -> tuple[list[dict[str, Any]], Name]:
    """Return the conversations and a function that names the i-th. There are none if the user types them in a terminal."""
    if texts or path is not None:
        return conversations_of(texts, path)
    if sys.stdin is None or not sys.stdin.isatty():
        raise UserError('t2t infer --chat: no terminal to talk in; give --text "..." or --input FILE.')
    return [], lambda i: "the conversation"


def _refuse(options: dict[str, Any], why: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise UserError(f"{option} {value}: {why}")


def _answered(run: SavedRun, answer: inference.Answer) -> dict[str, Any]:
    """Return the JSON fields of an answer.

    A label: "prediction", "probability", "probabilities" (of all labels). Several labels: "prediction" (a list), "probabilities". Numbers: "prediction", a number, or
    an object of several with their names. Tags: "prediction" (joined by spaces), "words", "probabilities".
    A span: "prediction" (text), "word" and "start" (indices of its first word and character, -1 for no span), "probability".
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
    labels = run.model.config.labels
    if isinstance(answer, LabelSet):
        return {"prediction": answer.texts, "probabilities": dict(zip(labels, answer.probabilities, strict=True))}
    if isinstance(answer, Numbers):
        named = len(answer.values) > 1
        return {"prediction": dict(zip(labels, answer.values, strict=True)) if named else answer.values[0]}
    return {
        "prediction": " ".join(label.text for _, label in answer),
        "words": [word for word, _ in answer],
        "probabilities": [max(label.probabilities) for _, label in answer],
    }


def _generated(outputs: Sequence[Output]) -> dict[str, Any]:
    found = [{"prediction": o.text, "score": _number(o.score), "ended": o.ended} for o in outputs]
    return found[0] if len(found) == 1 else {**found[0], "predictions": found}


def _filled(text: str, masks: Sequence[Sequence[Candidate]]) -> dict[str, Any]:
    # A text can have either form; [MASK] is the name in vocabularies.
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
    """Return a line for the terminal: labels or a span with their probabilities, numbers, or words with their tags."""
    prediction = answer["prediction"]
    if isinstance(prediction, float):
        return f"{prediction:.6g}"
    if isinstance(prediction, dict):
        return "  ".join(f"{name} {value:.6g}" for name, value in prediction.items())
    if isinstance(prediction, list):
        found = [f"{label}  {answer['probabilities'][label]:.3f}" for label in prediction]
        return "    ".join(found) or "(no label)"
    if "words" in answer:
        tags = prediction.split()
        return " ".join(f"{word}/{tag}" for word, tag in zip(answer["words"], tags, strict=True))
    return f"{prediction or '(no answer)'}  {answer['probability']:.3f}"


def _write(answers: Iterator[dict[str, Any]], out: TextIO, *, readable: bool) -> None:
    # If the output's encoding is not Unicode, escape the characters in JSON; otherwise the encoding would replace them.
    spelt = not (out.encoding or "utf-8").lower().startswith("utf")
    for answer in answers:
        file = io.StringIO()
        if not readable:
            file.write(json.dumps(answer, ensure_ascii=spelt) + "\n")
        elif "probability" in answer or "words" in answer or not isinstance(answer["prediction"], str):
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

"""Import a model of `transformers`, a GGUF file or a T5X checkpoint as a run."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from t2t.errors import Failure, UserError
from t2t.paths import check_new_run

if TYPE_CHECKING:
    from t2t.export.huggingface import Source
    from t2t.export.sentence import Sentence
    from t2t.nn.model import Kind, ModelConfig
    from t2t.train.experiment import Experiment
    from t2t.vocabularies import Vocabulary

KEPT = "huggingface"
"""Folder of a run with the original tokenizer files of an imported model."""


def import_checkpoint(
    source: str,
    directory: str,
    *,
    base: str | None = None,
    frozen_storage: Literal["copy", "reference"] = "copy",
    preset: str | None = None,
    vocabulary: str | None = None,
    accepted: tuple[str, ...] = (),
    check: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Import a model as a run and return a line that describes it.

    The source is a directory of transformers (config.json, safetensors, tokenizer files) or sentence-transformers, a GGUF file, a T5X checkpoint or an adapter
    of PEFT, which needs the run of its base model.
    The options are those of `t2t import`.

    accepted: options of config.json to ignore.
    say: receives log lines: what was left out, and the results of the checks.
    Raises UserError if the source has another format, if a model, an option or a tensor is not supported, if tensors are missing, or if the run exists.
    """
    from t2t.api.peft import import_adapter, is_adapter

    run = check_new_run(directory)
    if base is not None or is_adapter(Path(source)):
        for option, value in (("--preset", preset), ("--vocabulary", vocabulary)):
            if value is not None:
                raise UserError(
                    f"{option} {value}: {source} is an adapter of PEFT, and has that of its base model (--base)."
                )
        return import_adapter(Path(source), run, base, frozen_storage, say=say)
    if frozen_storage != "copy":
        raise UserError(
            f"--frozen-storage {frozen_storage}: only the run of an adapter has frozen parameters (--base). Nearest: copy."
        )
    with _open_source(Path(source), preset, accepted) as (model, sentence):
        for line in describe_left_out(model.left_out):
            say(f"note: left out: {line}")
        if sentence is not None and sentence.prompts:
            say(f"note: prompts that the run does not keep (write them before the texts): {dict(sentence.prompts)}")
        try:
            return _create_run(model, sentence, source, run, vocabulary, check=check, say=say)
        except BaseException:
            shutil.rmtree(run, ignore_errors=True)
            raise


def describe_left_out(left_out: Mapping[str, str]) -> list[str]:
    """Return a line for each reason why tensors are left out, with their names. Long lists of names are abbreviated."""
    from t2t.export.mapping import some

    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    return [f"{some(names)} ({reason})" for reason, names in by_reason.items()]


@contextlib.contextmanager
def _open_source(
    source: Path, preset: str | None, accepted: tuple[str, ...]
) -> Iterator[tuple[Source, Sentence | None]]:
    """Yield the model, and what the files of `sentence-transformers` say, None if there are none."""
    from t2t import models
    from t2t.api.sentence import sentence_encoder
    from t2t.export.huggingface import opened
    from t2t.export.sentence import read_sentence
    from t2t.models.families import family_of

    if preset is not None:
        from t2t.api import tensorflow_checkpoint
        from t2t.export import t5x
        from t2t.models.t5.t5x import understood

        legacy = tensorflow_checkpoint.prefix_of(source)
        arrays = t5x.open_arrays(source) if legacy is None else tensorflow_checkpoint.open_arrays(legacy)
        yield understood(arrays, models.preset(preset)), None
        return
    with _directory(source) as directory:
        sentence = read_sentence(directory)
        with opened(sentence.directory if sentence else directory, family_of, accepted=accepted) as model:
            if sentence is None:
                yield model, None
                return
            with sentence_encoder(model, sentence) as encoder:
                yield encoder, sentence


@contextlib.contextmanager
def _directory(source: Path) -> Iterator[Path]:
    """Yield the directory itself, or a temporary directory with the converted GGUF file."""
    if source.suffix != ".gguf":
        yield source
        return
    from t2t.export.gguf import gguf_directory

    with tempfile.TemporaryDirectory(prefix="t2t-gguf-") as converted:
        gguf_directory(source, Path(converted))
        yield Path(converted)


def _create_run(
    model: Source,
    sentence: Sentence | None,
    source: str,
    run: Path,
    vocabulary_file: str | None,
    *,
    check: bool,
    say: Callable[[str], None],
) -> str:
    from t2t import models
    from t2t.api.user_code import known_code
    from t2t.api.user_code.imports import own_code
    from t2t.checkpoint import Checkpoints
    from t2t.export.huggingface import short_logits
    from t2t.export.tokenizer_files import trained_lengths
    from t2t.sharding import MeshConfig
    from t2t.train import run_checksums
    from t2t.train.experiment import check_vocabulary
    from t2t.train.run import CHECKPOINTS, RunRecord, open_run

    experiment = experiment_for(model.config, trained_lengths(model.files.directory))
    with tempfile.TemporaryDirectory(prefix="t2t-tokenizer-") as scratch:
        vocabulary = _vocabulary(model, source, vocabulary_file, Path(scratch), say)
        check_vocabulary(experiment, vocabulary)
        if sentence is not None:
            sentence.check(vocabulary)
        params = model.params(MeshConfig().build())
        before = short_logits(model.model, params) if check else None
        own = own_code()  # a user's family may have user models
        record = RunRecord(
            recipe=f"import {source}",
            experiment=experiment,
            vocabulary=vocabulary,
            imports=own.imports,
            code=own.checksums,
        )
        known_code.remember(own.imports, own.checksums)
        open_run(run, record, own.files)
        size = vocabulary.size
    if vocabulary_file is None:
        _keep(model.files.directory, run / KEPT)
        run_checksums.seal(run)
    with Checkpoints(run / CHECKPOINTS, experiment.checkpoint) as checkpoints:
        checkpoints.save(0, parameters_alone(params), {}, {})
    del params
    if before is not None:
        _compare(model, run, before, say)
    return f"{run}: {model.family.name}, {models.count(model.config):,} parameters, {size:,} ids"


def _vocabulary(model: Source, source: str, file: str | None, scratch: Path, say: Callable[[str], None]) -> Vocabulary:
    from t2t.api.vocabulary_file import vocabulary_of
    from t2t.export.generation_files import Generation
    from t2t.export.huggingface import CONFIG, read_options
    from t2t.export.tokenizer_files import added_before, read_vocabulary, trained_lengths

    directory = model.files.directory
    if not (directory / CONFIG).is_file():
        if file is None:
            raise UserError(f"{source}: a T5X checkpoint has no tokenizer. Give --vocabulary FILE (spiece.model).")
        return vocabulary_of(file)
    options = read_options(directory)
    tokenizer = read_vocabulary(directory, options, scratch=scratch) if file is None else vocabulary_of(file)
    generation, kind = Generation(directory, options), model.config.kind
    result = generation.applied(tokenizer, kind)
    if generation.ends() and model.config.can("generate") and result.eos_id not in generation.ends():
        say(f"note: eos_token_id does not include the tokenizer's EOS, id {result.eos_id}: both end a text here")
    if kind == "encoder_decoder" and (token := added_before(result)) is not None:
        say(f"note: the tokenizer adds {token} before each text, and this run does not: write it in the texts")
    # Our own exports store the length of outputs and the suppressed tokens there. The run already has these values.
    ours = trained_lengths(directory) is not None
    known = ("max_new_tokens = ", "suppress_tokens = ")
    if lost := [item for item in generation.not_carried(kind) if not (ours and item.startswith(known))]:
        say(f"note: generation defaults that the run does not keep (use options of t2t infer): {', '.join(lost)}")
    return result


def _keep(directory: Path, kept: Path) -> None:
    from t2t.export.tokenizer_files import KEPT as FILES

    kept.mkdir()
    for name in FILES:
        if (directory / name).is_file():
            shutil.copyfile(directory / name, kept / name)


def _compare(model: Source, run: Path, before: np.ndarray, say: Callable[[str], None]) -> None:
    from t2t.export.huggingface import differing, short_logits
    from t2t.train.run import SavedRun

    params = SavedRun.load(run).params()
    after = short_logits(model.model, params)
    if not np.isfinite(after).all():
        raise UserError(
            f"{model.files.directory}: the model's logits on a short input are not finite (use --no-check to import it anyway)"
        )
    wrong = differing(model, params)
    if wrong or not np.array_equal(before, after):
        raise Failure(f"{run}: the saved run differs from the source: {', '.join(wrong[:4]) or 'logits differ'}")
    say(
        f"check: {len(model.wanted)} tensors equal bit for bit, logits of the saved run equal (largest {np.abs(after).max():.3f})"
    )


def parameters_alone(params: Any) -> Any:
    """Return the checkpoint contents of a model without an optimizer state."""
    import jax.numpy as jnp
    from flax import struct

    @struct.dataclass
    class Parameters:
        params: Any
        step: Any

    return Parameters(params=params, step=jnp.zeros((), jnp.int32))


_TASKS: dict[Kind, str] = {
    "encoder_decoder": "quickstart",
    "decoder": "quickstart_decoder",
    "encoder": "quickstart_encoder",
}


def experiment_for(config: ModelConfig, lengths: Mapping[str, int] | None = None) -> Experiment:
    """Return the experiment for a run of imported parameters: fine-tuning on the quickstart's tasks. `from:RUN` starts from it."""
    from t2t.data import Data
    from t2t.optim import AdamW, Linear
    from t2t.train.evaluation import Evaluation
    from t2t.train.experiment import Experiment

    task = _TASKS[config.kind]
    longest, shared = config.max_length or 512, config.can("continue_text")
    inputs = min(128, longest // 2 if shared else longest)
    targets = min(128, longest - inputs if shared else longest) if config.can("generate") else inputs
    if lengths is not None:
        inputs, targets = lengths["inputs"], lengths["targets"]
        row = inputs + targets if shared else max(inputs, targets)
        if config.max_length is not None and row > config.max_length:
            raise UserError(
                f"trained_lengths {inputs} and {targets} (tokenizer_config.json): the model has {config.max_length} positions"
            )
    steps = 1000
    return Experiment(
        model=config,
        data=Data(task=task, inputs_length=inputs, targets_length=targets, batch_size=16, shards=4),
        optimizer=AdamW(schedule=Linear(peak=1e-4, warmup=steps // 10, steps=steps), weight_decay=0.01),
        steps=steps,
        log_every=10,
        evaluation=Evaluation(tasks=(task,), every=500, examples=100),
    )

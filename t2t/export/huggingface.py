"""Reading and writing of `transformers` directories: config.json, safetensors (single or sharded) and tokenizer files."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from t2t.checksums import names_beneath, problem, table
from t2t.errors import UserError, nearest
from t2t.export.chat_template import FILE as TEMPLATE
from t2t.export.directory import flatten, write_json, writing
from t2t.export.family import Family, Options
from t2t.export.generation_files import GENERATION, generation_config, ids_of
from t2t.export.mapping import Tensor, check_depth, check_shapes, resolve, tensors, write_tensor
from t2t.export.mxfp4 import unpacked
from t2t.export.packed_ternary import unpacked_ternary
from t2t.export.pickled_files import open_tensors
from t2t.export.placing import read_params
from t2t.export.published import Published
from t2t.export.quantized_tensors import QuantizedTensors
from t2t.export.readme import SENTENCE_README, huggingface_readme
from t2t.export.sentence import Vectors, write_sentence
from t2t.export.sentence_dense import write_dense
from t2t.export.tensor_files import DTYPES, write_tensors
from t2t.export.tokenizer_writing import write_tokenizer
from t2t.json_files import expect, read_json
from t2t.nn.model import Kind, Model, ModelConfig
from t2t.stored_paths import check_links
from t2t.train.state import param_shardings
from t2t.types import Batch, Params, Tokens
from t2t.vocabularies import Vocabulary

CONFIG = "config.json"
CHECKSUMS = "checksums.json"
"""Checksums of all files of an export except README.md. `transformers` does not use this file."""
LEFT_OUT = {
    r"(.*\.)?position_ids": "the numbers 0, 1, 2, ...",
    r"(.*\.)?token_type_ids": "zeros",
    r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)": "computed from the options",
}
"""Pattern of tensors of any family that are not read -> the reason. Older versions of `transformers` saved them; they can be computed."""
ENDINGS = (".json", ".safetensors", ".txt", ".model", ".spm", ".jinja")
"""Suffixes of the files that are read in a `transformers` directory."""
FamilyOf = Callable[..., Family]
"""(model_type, where=...) -> family; the registry is in `t2t.models.families`."""


def read_options(directory: Path) -> dict[str, Any]:
    """Return the content of config.json. Raises UserError if it is missing or has no model_type, or if a file links outside the directory."""
    path = directory / CONFIG
    if not directory.is_dir():
        siblings = [other.name for other in directory.parent.iterdir()] if directory.parent.is_dir() else []
        raise UserError(f"directory {directory} not found.{nearest(directory.name, siblings)}")
    check_links(directory, ENDINGS)
    if not path.is_file():
        raise UserError(f"{directory}: not a transformers model: {CONFIG} is missing")
    options = read_json(path)
    if "model_type" not in options:
        raise UserError(f"{path}: model_type is missing")
    expect(options["model_type"], str, f"{path}: model_type")
    return options


def check_content(directory: Path) -> None:
    """Raise UserError, naming the file, if a file does not match the checksums that our export wrote."""
    checksums = directory / CHECKSUMS
    if not checksums.is_file():
        return
    names = [path.name for path in sorted(directory.iterdir()) if path.suffix in ENDINGS and path != checksums]
    if message := problem(directory, read_json(checksums), names, where=checksums):
        raise UserError(f"{message}. If you changed it on purpose, delete {checksums}")


class Files(Protocol):
    """Named tensors that can be read one at a time."""

    @property
    def directory(self) -> Path:
        """The directory of the checkpoint."""

    @property
    def names(self) -> Collection[str]:
        """The names of the tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors are equal."""

    def read(self, name: str) -> np.ndarray:
        """Return a tensor."""


@dataclass(frozen=True)
class Source:
    """An open `transformers` directory (or T5X checkpoint). Its configuration is parsed; no tensors are read yet.

    wanted:   the tensors that the model needs.
    names:    tensor in `wanted` -> its names in the checkpoint, several if there are copies.
    left_out: name of each tensor that is not read -> the reason.
    """

    files: Files
    family: Family
    config: ModelConfig
    model: Model
    wanted: list[Tensor]
    names: Mapping[str, list[str]]
    left_out: Mapping[str, str]

    def read(self, name: str) -> np.ndarray:
        """Return a tensor by its name in `wanted`. Raises UserError if copies of it differ."""
        first, *copies = self.names[name]
        for copy in copies:
            if not self.files.equal(first, copy):
                raise UserError(f"{self.files.directory}: tensors {first} and {copy} differ, but config.json ties them")
        return self.files.read(first)

    def params(self, mesh: jax.sharding.Mesh) -> Params:
        """Read the parameters one at a time, each directly to its devices on the mesh."""
        shardings = param_shardings(self.model, mesh)
        return read_params(self.wanted, self.model.specs, shardings, self.read, where=self.files.directory)


@contextmanager
def opened(directory: str | Path, family_of: FamilyOf, *, accepted: Collection[str] = ()) -> Iterator[Source]:
    """Open a `transformers` directory.

    accepted: names of unknown options in config.json to ignore.
    Raises UserError if the model or an option is not supported, or if a tensor is unknown or missing.
    """
    directory = Path(directory)
    values = read_options(directory)
    check_content(directory)
    where = str(directory / CONFIG)
    family = family_of(values["model_type"], where=where)
    with open_tensors(directory) as stored:
        files = Published(unpacked(unpacked_ternary(stored, values)), prefix=family.prefix)
        options = Options(values, where=where, accepted=accepted)
        config = _parsed(family, options, files)
        model = config.build()
        entries = family.entries(config)
        check_depth(entries, model.specs, files.names, where=where)
        wanted = tensors(entries, model.specs)
        left_out = {**family.left_out, **LEFT_OUT}
        names, rest = resolve(
            wanted, files.names, where=directory, left_out=left_out, prefix=family.prefix, of=options.architecture
        )
        check_shapes(wanted, names, files.shape, where=directory)
        yield Source(files, family, config, model, wanted, names, _reasons(left_out, rest))


def _parsed(family: Family, options: Options, files: Published) -> ModelConfig:
    """Return the configuration. Add the name of the file to errors that name only our fields."""
    try:
        config = family.config(options, files)
    except UserError as error:
        raise error if str(error).startswith(options.where) else UserError(f"{options.where}: {error}") from None
    options.finish()
    return config


def _reasons(left_out: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: next(reason for pattern, reason in left_out.items() if re.fullmatch(pattern, name)) for name in names}


def write_huggingface(
    params: Params,
    options: Mapping[str, Any],
    wanted: Sequence[Tensor],
    vocabulary: Vocabulary,
    out: str | Path,
    *,
    kind: Kind,
    lengths: Mapping[str, int] | None = None,
    vectors: Vectors | None = None,
    dtype: str = "float32",
    shard_bytes: int = 5_000_000_000,
    layout: QuantizedTensors | None = None,
    kept: Path | None = None,
    chat_template: str | None = None,
    overwrite: bool = False,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Write a directory that `from_pretrained` of `transformers` can load.

    options, wanted: from `t2t.models.families.exportable`.
    kind:            kind of the model. It determines the special tokens that the tokenizer adds to a text.
    lengths:         lengths of "inputs" and "targets" in training, in tokens. The latter is the default length of generation.
    vectors:         of a sentence encoder: also write the files of `sentence-transformers`.
    dtype:           type of the weights.
    layout:          of weights in another form than floats: the tensors that are written in their place.
    kept:            directory of the original tokenizer files of an imported model.
    chat_template:   the Jinja text of a chat template that the model has learned.
    check:           called with the temporary directory before it is moved to `out`. If it raises, nothing is written to `out`.

    Raises UserError like `t2t.export.directory.writing`.
    """
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r} (--dtype).{nearest(dtype, DTYPES)}")
    flat = flatten(params)
    by_name = {tensor.name: tensor for tensor in wanted}
    with writing(Path(out), overwrite=overwrite) as draft:

        def make(name: str) -> np.ndarray:
            return write_tensor(by_name[name], flat)

        shapes = [(tensor.name, tensor.shape) for tensor in wanted]
        if layout is None:
            write_tensors(draft, shapes, make, dtype=dtype, shard_bytes=shard_bytes)
        else:
            layout.write(draft, make, shard_bytes=shard_bytes)
            options = {**options, "quantization_config": layout.options()}
        write_tokenizer(draft, vocabulary, kind, lengths=lengths, kept=kept)
        if chat_template is not None:
            (draft / TEMPLATE).write_text(chat_template, encoding="utf-8")
        if kind == "encoder_decoder":
            options = {**options, "decoder_start_token_id": vocabulary.bos_id}
        ids = ids_of(vocabulary)
        # T5Gemma has the ids in the options of each stack too.
        stacks = {
            side: {**ids, **options[side]} for side in ("encoder", "decoder") if isinstance(options.get(side), dict)
        }
        write_json(draft / CONFIG, {**ids, **options, **stacks, "torch_dtype": dtype})
        generation = generation_config(vocabulary, options, lengths)
        if generation is not None and not (draft / GENERATION).exists():
            write_json(draft / GENERATION, generation)
        models = any((draft / name).exists() for name in ("spiece.model", "spm.model", "source.spm"))
        needs_sentencepiece = models and not (draft / "tokenizer.json").exists()
        text = huggingface_readme(
            kind,
            options["architectures"][0],
            needs_sentencepiece=needs_sentencepiece,
            prepends_bos=vocabulary.prepends_bos,
            auto_map=options.get("auto_map"),
        )
        if vectors is not None:
            if (folder := write_sentence(draft, vectors)) is not None:
                write_dense(folder, flat, dtype=dtype)
            text += SENTENCE_README
        write_json(draft / CHECKSUMS, table(draft, names_beneath(draft)))
        (draft / "README.md").write_text(text, encoding="utf-8")  # No checksum: users may edit it.
        if check is not None:
            check(draft)
    return Path(out)


def differing(source: Source, params: Params, *, dtype: str = "float32") -> list[str]:
    """Return the names of the tensors that are not bitwise equal to the parameters in `dtype`. Reads one tensor at a time."""
    flat = flatten(params)
    kind = DTYPES[dtype][0]

    def equal(tensor: Tensor) -> bool:
        ours = np.ascontiguousarray(write_tensor(tensor, flat)).astype(kind).astype(np.float32)
        theirs = np.ascontiguousarray(source.read(tensor.name)).astype(np.float32)
        return ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()

    return [tensor.name for tensor in source.wanted if not equal(tensor)]


def short_batch(config: ModelConfig, *, rows: int = 2, length: int = 12) -> Batch:
    """Return a short batch without padding, for any kind of model. The ids are always the same."""
    random = np.random.default_rng(0)
    limit = config.max_length
    length = length if limit is None else min(length, limit)

    def tokens(length: int) -> Tokens:
        ids = random.integers(min(3, config.vocab_size - 1), config.vocab_size, (rows, length)).astype(np.int32)
        positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
        return Tokens(ids=ids, positions=positions, segments=np.ones_like(ids))

    encoder = tokens(length) if "encoder" in config.sides else None
    decoder = tokens(max(length - 3, 1)) if "decoder" in config.sides else None
    predicted = decoder if decoder is not None else encoder
    assert predicted is not None
    weights = np.ones(predicted.ids.shape, np.float32)
    return Batch(encoder=encoder, decoder=decoder, targets=predicted.ids, weights=weights)


def short_logits(model: Model, params: Params) -> np.ndarray:
    """Return float32 logits on `short_batch`."""
    logits = jax.jit(model.logits)(params, jax.tree.map(jnp.asarray, short_batch(model.config)))
    return np.asarray(jax.device_get(logits), np.float32)

"""Reading and writing of the files that `sentence-transformers` adds to a `transformers` directory.

A sentence encoder is a list of modules (modules.json). Supported are a Transformer, a Pooling and optionally a Dense and a Normalize, in this order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from t2t.errors import UserError, nearest
from t2t.export.directory import write_json
from t2t.export.family import LARGEST, Options
from t2t.export.sentence_dense import Dense, dense_options, read_dense
from t2t.json_files import expect, read_json
from t2t.nn.pooling import Pooling
from t2t.stored_paths import hub_cache, stored_path
from t2t.vocabularies import Vocabulary

MODULES = "modules.json"
_SETTINGS = "config_sentence_transformers.json"
_TRANSFORMER = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "albert", "xlm-roberta")
)
_POOLING, _CONFIG = "1_Pooling", "config.json"
_CLASSES = ("Transformer", "Pooling", "Dense", "Normalize")
_PREFIX = "sentence_transformers.models."
_MODES: dict[str, Pooling] = {
    "mean": "mean",
    "cls": "first",
    "max": "max",
    "lasttoken": "last",
    "weightedmean": "weighted_mean",
    "mean_sqrt_len_tokens": "mean_sqrt",
}
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Flags in the files of versions before 5.4, which has one option `pooling_mode` instead."""
_WITHOUT_EFFECT = ("modality_config", "processing_kwargs", "unpad_inputs", "query_length", "document_length")
_ENTIRELY = ("model_args", "config_args", "tokenizer_args", "model_kwargs", "config_kwargs", "processor_kwargs")
"""Arguments for loading the model, which other files have too."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """How the vector of a text is computed from the outputs at its tokens.

    size:       number of dimensions of the outputs.
    dense:      layer after the pooling, or None.
    max_length: maximum number of tokens of a text; None means as many as the model has positions.
    """

    size: int
    pooling: Pooling
    dense: Dense | None = None
    normalize: bool
    max_length: int | None


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """The content of the files.

    directory: the directory of transformers (config.json, weights, tokenizer).
    dense:     the directory of the module Dense, or None.
    lowercase: whether texts are converted to lower case before they are tokenized.
    prompts:   texts that users may put before a text: name -> prompt. They are not applied by default.
    """

    directory: Path
    dense: Path | None
    vectors: Vectors
    lowercase: bool
    prompts: Mapping[str, str]

    def check(self, vocabulary: Vocabulary) -> None:
        """Raise UserError if texts are converted to lower case, but the tokenizer distinguishes upper and lower case."""
        letters = " ".join(ascii_lowercase)
        if self.lowercase and vocabulary.encode(letters.upper()) != vocabulary.encode(letters):
            raise UserError(
                f"{self.directory / _TRANSFORMER[0]}: do_lower_case is True, but the tokenizer distinguishes upper and lower case;"
                " only False is supported"
            )


def read_sentence(directory: Path) -> Sentence | None:
    """Return what the files of `sentence-transformers` say, or None if the directory has none.

    Raises UserError, with the name of the file, for a module or an option that is not supported.
    """
    if not (directory / MODULES).is_file():
        return None
    modules = _modules(directory)
    transformer, pooling = modules["Transformer"], modules["Pooling"]
    encoder = _settings(directory, transformer, _TRANSFORMER)
    encoder.must("transformer_task", "feature-extraction", why="the vectors of the tokens are expected")
    encoder.must("module_output_name", "token_embeddings", why="the vectors of the tokens are expected")
    encoder.free(*_WITHOUT_EFFECT, *_ENTIRELY)
    encoder.must("query_expansion", None, why="query expansion is not supported")
    length = encoder.take("max_seq_length", None)
    length = _tokenizer_length(directory / transformer) if length is None else encoder.size("max_seq_length")
    lowercase = encoder.flag("do_lower_case", False)
    settings = _settings(directory, "", (_SETTINGS,))
    settings.free("__version__", "similarity_fn_name")
    settings.must("model_type", "SentenceTransformer", why="a model that gives one vector for each text is expected")
    settings.must(
        "default_prompt_name",
        None,
        why="prompts are not added to texts here; set it to null, and write the prompt before each text yourself",
    )
    prompts = settings.group("prompts")
    for options in (encoder, settings):
        _finish(options)
    mode, size = _pooling(_settings(directory, pooling, (_CONFIG,)))
    dense = None
    if "Dense" in modules:
        options = _settings(directory, modules["Dense"], (_CONFIG,))
        dense = read_dense(options, size)
        _finish(options)
    return Sentence(
        directory=directory / transformer,
        dense=None if dense is None else directory / modules["Dense"],
        vectors=Vectors(size=size, pooling=mode, dense=dense, normalize="Normalize" in modules, max_length=length),
        lowercase=lowercase,
        prompts={name: text for name, text in prompts.items() if text},
    )


def write_sentence(draft: Path, vectors: Vectors) -> Path | None:
    """Write the files of `sentence-transformers` for the model in a `transformers` directory.

    Returns the directory of the module Dense, which lacks its weights, or None if the model has no such layer.
    """
    names = [
        "Transformer",
        "Pooling",
        *(["Dense"] if vectors.dense else []),
        *(["Normalize"] if vectors.normalize else []),
    ]
    table = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"{_PREFIX}{name}"}
        for i, name in enumerate(names)
    ]
    write_json(draft / MODULES, table)
    mode = next(name for name, ours in _MODES.items() if ours == vectors.pooling)
    (draft / _POOLING).mkdir()
    # The flags are read by all versions.
    flags = {flag: other == mode for flag, other in _FLAGS.items()}
    write_json(draft / _POOLING / _CONFIG, {"word_embedding_dimension": vectors.size, **flags, "include_prompt": True})
    write_json(draft / _TRANSFORMER[0], {"max_seq_length": vectors.max_length, "do_lower_case": False})
    settings: dict[str, Any] = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(draft / _SETTINGS, {"model_type": "SentenceTransformer", **settings})
    if vectors.dense is None:
        return None
    folder = draft / "2_Dense"
    folder.mkdir()
    write_json(folder / _CONFIG, dense_options(vectors.dense, vectors.size))
    return folder


def _modules(directory: Path) -> dict[str, str]:
    """Return the modules: name of the class -> path."""
    where = directory / MODULES
    modules = read_json(where, shape=list)
    classes, paths = [], []
    for i, module in enumerate(modules):
        place = f"{where}: module {i}"
        expect(module, dict, place)
        name = expect(module.get("type"), str, f"{place}: type").rpartition(".")[2]
        if name not in _CLASSES:
            raise UserError(
                f"{place} is {name}, which is not supported; supported are {', '.join(_CLASSES)}.{nearest(name, _CLASSES)}"
            )
        classes.append(name)
        paths.append(expect(module.get("path", ""), str, f"{place}: path"))
    if classes[:2] != ["Transformer", "Pooling"] or classes != [name for name in _CLASSES if name in classes]:
        raise UserError(
            f"{where}: the modules are {', '.join(classes) or 'none'}; expected Transformer, Pooling, then at most one Dense and one Normalize"
        )
    return dict(zip(classes, paths, strict=True))


def _settings(directory: Path, folder: str, names: tuple[str, ...]) -> Options:
    """Return the options in the first existing file; no options if there is none."""
    for name in names:
        file = f"{folder}/{name}" if folder else name
        path = stored_path(directory, file, where=str(directory / MODULES), also=hub_cache(directory))
        if path.is_file():
            return Options(read_json(path), where=str(path))
    return Options({}, where=str(directory / folder / names[0]))


def _tokenizer_length(directory: Path) -> int | None:
    """Return `model_max_length` of the tokenizer, which versions from 5.4 use; None if there is no limit."""
    path = directory / "tokenizer_config.json"
    length = read_json(path).get("model_max_length") if path.is_file() else None
    return length if isinstance(length, int) and 0 < length <= LARGEST else None


def _pooling(options: Options) -> tuple[Pooling, int]:
    """Return the pooling of a config.json, and the size of the vectors. Raises UserError for one that is not supported, and for several at once."""
    options.free("include_prompt")
    older = options.size("word_embedding_dimension", None)
    size = options.size("embedding_dimension", older) if older else options.size("embedding_dimension")
    modes = [mode for flag, mode in _FLAGS.items() if options.flag(flag, False)]
    name = options.take("pooling_mode", None)
    if isinstance(name, str):
        modes = [name]
    elif name is not None:
        modes = list(expect(name, list, f"{options.where}: pooling_mode"))
    _finish(options)
    modes = modes or ["mean"]
    if len(modes) > 1:
        raise options.refuse("pooling_mode", modes, "only one kind of pooling is supported")
    if modes[0] not in _MODES:
        near = nearest(str(modes[0]), _MODES)
        raise options.refuse("pooling_mode", modes[0], f"supported are {', '.join(_MODES)}.{near}")
    return _MODES[modes[0]], size


def _finish(options: Options) -> None:
    """Raise UserError for options that were not read: they may change the vectors."""
    if unknown := options.unknown:
        name, value = next(iter(unknown.items()))
        raise options.refuse(name, value, "unknown option, which may change the vectors")

"""Reading of the tokenizer of a `transformers` directory as a vocabulary that gives the same ids."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from t2t.errors import UserError
from t2t.export import deberta_tokenizer
from t2t.export.added_tokens import CONFIG, ROLES, Declared, add_tokens, declared_tokens, json_of, role_tokens
from t2t.export.marian_files import is_marian, read_marian
from t2t.export.token_check import TEXTS, check, difference, marked
from t2t.export.tokenizer_json import library_of
from t2t.export.xlm_roberta_tokenizer import MODEL_TYPES as XLM_ROBERTA
from t2t.export.xlm_roberta_tokenizer import PIECES, xlm_roberta_tokenizer
from t2t.json_files import expect
from t2t.vocabularies import Bytes, SentencePiece, Tokenizer, Vocabulary, WordPiece
from t2t.vocabularies.files import read
from t2t.vocabularies.library import added, load, size_of
from t2t.vocabularies.wordpiece import tokens_of

KEPT = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "source.spm",
    "target.spm",
    PIECES,
)
"""Files that an import keeps in the run, so that an export can write them unchanged."""

_BYT5_EXTRA_IDS = 125
_SENTENCEPIECE = ("t5", "mt5", "umt5")
"""Models whose tokenizer is spiece.model followed by sentinels."""
_STARTS = {"bart": 2, "t5gemma": 2}
"""Start tokens of decoders that `transformers` takes if config.json has none, where it is not 0."""
_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_MPNET = {**_BERT, "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>"}
"""Tokens of a vocab.txt that no file specifies."""
_USUAL = {
    "eos": ("</s>", "<|endoftext|>", "[SEP]"),
    "mask": ("<mask>", "[MASK]"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "pad": ("<pad>", "[PAD]"),
    "unk": ("<unk>", "[UNK]"),
}
"""Usual tokens of the roles that no file specifies."""
_WORDPIECE_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer")
_WORDPIECE_MODELS = ("bert", "distilbert", "electra", "mpnet", "neobert")
"""Tokenizers, and models with such a tokenizer, for which settings like do_lower_case replace those of tokenizer.json."""


def read_vocabulary(directory: Path, options: Mapping[str, Any], *, scratch: Path) -> Vocabulary:
    """Return the vocabulary for the directory's tokenizer files.

    options: the options of config.json.
    scratch: directory for a new tokenizer.json, if the directory has none or added tokens and settings change it.

    Raises UserError if there is no tokenizer or it is not supported. Raises Failure if the vocabulary gives different ids.
    """
    settings = json_of(directory / CONFIG)
    kind = settings.get("tokenizer_class") or options.get("tokenizer_class") or ""
    kind = expect(kind, str, f"{directory / CONFIG}: tokenizer_class").removesuffix("Fast")
    tokens = declared_tokens(directory, settings)
    if kind == "ByT5Tokenizer":
        return _bytes(directory, settings, tokens)
    if is_marian(directory, kind):
        return read_marian(directory, settings, tokens)
    found = _library(directory, settings, kind, str(options.get("model_type", "")))
    if found is None:
        if not kind and options.get("model_type") in ("t5", "mt5") and options.get("vocab_size") == 384:
            return Bytes(extra_ids=_BYT5_EXTRA_IDS)
        names = ", ".join(sorted(path.name for path in directory.iterdir())[:12])
        raise UserError(
            f"{directory}: no supported tokenizer (tokenizer.json, spiece.model of a T5, vocab.txt, vocab.json with merges.txt or with source.spm and target.spm); found: {names}."
            " Use --vocabulary FILE, or write a tokenizer.json with AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) of transformers"
        )
    library, changed = found
    changed = add_tokens(library, tokens, fresh=not (directory / "tokenizer.json").is_file()) or changed
    if sentencepiece := _sentencepiece(directory, settings, options, library):
        return sentencepiece
    if same := _our_bytes(library):
        return same
    file = directory / "tokenizer.json"
    if changed:
        file = scratch / "tokenizer.json"
        library.save(str(file))
    elif not file.is_file():
        file = directory / "vocab.txt"
    roles = _roles(directory, library, settings, options)
    if _is_bert(library) and all(roles[role] in (None, name) for role, name in _BERT.items()):
        vocabulary: WordPiece | Tokenizer = WordPiece(path=str(file), extra_ids=_sentinels(library))
    else:
        if file.suffix != ".json":
            file = scratch / "tokenizer.json"
            library.save(str(file))
        vocabulary = _tokenizer(file, library, roles, settings, options)
    texts = [*TEXTS, *marked(name for name in added(library) if not name.startswith("<extra_id_"))[:400]]
    check(
        f"{directory}: the tokenizer's files",
        lambda text: vocabulary.encode(text)[vocabulary.adds_cls :],
        lambda text: library.encode(text, add_special_tokens=False).ids,
        texts,
    )
    return vocabulary


def tokenizer_of(file: Path) -> WordPiece | Tokenizer:
    """Return the vocabulary for a tokenizer.json. Special tokens come from the tokenizer_config.json in the same directory.

    Raises UserError if other files of the directory declare tokens that tokenizer.json does not have: it is not the whole tokenizer.
    """
    library = load(read(str(file)), str(file))
    settings = json_of(file.parent / CONFIG)
    tokens = [token for token in declared_tokens(file.parent, settings) if token.number is not None]
    lacking = [token for token in tokens if library.token_to_id(token.content) != token.number]
    if lacking:
        raise UserError(
            f"{lacking[0].where} declares {lacking[0].content!r}, which is missing from {file}: use a tokenizer.json with all tokens"
        )
    if _is_bert(library):
        vocabulary = WordPiece(path=str(file), extra_ids=_sentinels(library))
        _ = vocabulary.size  # Raises UserError if the file is invalid.
        return vocabulary
    return _tokenizer(file, library, _roles(file.parent, library, settings, {}), settings, {})


def _library(directory: Path, settings: Mapping[str, Any], kind: str, model_type: str) -> tuple[Library, bool] | None:
    """Return the tokenizer of the first file that exists, and whether settings changed it; None if there is no such file."""
    if (directory / "tokenizer.json").is_file():
        library = load(read(str(directory / "tokenizer.json")), str(directory / "tokenizer.json"))
        before = library.to_str()
        if kind in _WORDPIECE_CLASSES or (not kind and model_type in _WORDPIECE_MODELS):
            if _is_bert(library):
                library.normalizer = _bert_normalizer(directory, settings)
        elif kind in ("GPT2Tokenizer", "RobertaTokenizer", "BartTokenizer") and isinstance(
            library.pre_tokenizer, pre_tokenizers.ByteLevel
        ):
            library.pre_tokenizer.add_prefix_space = _flag(directory, settings, "add_prefix_space", False)
        return library, library.to_str() != before
    if (directory / "vocab.txt").is_file():
        mpnet = kind == "MPNetTokenizer" or (not kind and model_type == "mpnet")
        return _bert(directory, settings, _MPNET if mpnet else _BERT), _flag(
            directory, settings, "do_lower_case", True
        ) is not True or (
            settings.get("strip_accents") is not None or settings.get("tokenize_chinese_chars", True) is not True
        )
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return _byte_level(
            directory,
            settings,
            roberta=kind in ("RobertaTokenizer", "BartTokenizer") or (not kind and model_type in ("roberta", "bart")),
        ), True
    if model_type in _SENTENCEPIECE and (directory / "spiece.model").is_file():
        return library_of(_spiece(directory, settings)), True
    if model_type in XLM_ROBERTA and (directory / PIECES).is_file():
        return xlm_roberta_tokenizer(directory / PIECES), True
    if model_type == "deberta-v2" and (directory / deberta_tokenizer.FILE).is_file():
        names = {**_BERT, **role_tokens(directory, settings)}
        return deberta_tokenizer.deberta_library(directory, settings, names), True
    return None


def _flag(directory: Path, settings: Mapping[str, Any], name: str, default: bool) -> bool:
    return bool(expect(settings.get(name, default), bool, f"{directory / CONFIG}: {name}"))


def _is_bert(library: Library) -> bool:
    return isinstance(library.model, models.WordPiece)


def _bert_normalizer(directory: Path, settings: Mapping[str, Any]) -> normalizers.Normalizer:
    if not _flag(directory, settings, "do_basic_tokenize", True):
        raise UserError(
            f"{directory / CONFIG}: do_basic_tokenize false (splitting only at white space) is not supported"
        )
    if settings.get("never_split"):
        raise UserError(f"{directory / CONFIG}: never_split {settings['never_split']!r} is not supported")
    accents = settings.get("strip_accents")
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=_flag(directory, settings, "tokenize_chinese_chars", True),
        strip_accents=None if accents is None else _flag(directory, settings, "strip_accents", False),
        lowercase=_flag(directory, settings, "do_lower_case", True),
    )


def _bert(directory: Path, settings: Mapping[str, Any], usual: Mapping[str, str]) -> Library:
    tokens = tokens_of(str(directory / "vocab.txt"))
    names = {**usual, **role_tokens(directory, settings)}
    if names["unk"] not in tokens:
        raise UserError(
            f"vocabulary file {str(directory / 'vocab.txt')!r} lacks {names['unk']}; a BERT vocab.txt has one token per line."
        )
    library = Library(models.WordPiece(tokens, unk_token=names["unk"], max_input_chars_per_word=100))
    library.normalizer = _bert_normalizer(directory, settings)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(prefix="##")
    library.add_special_tokens([names[role] for role in _BERT if names[role] in tokens])
    if usual is _MPNET and names["sep"] in tokens and names["cls"] in tokens:  # two </s> between the texts of a pair
        sep, cls = ((names[role], tokens[names[role]]) for role in ("sep", "cls"))
        library.post_processor = processors.RobertaProcessing(sep, cls)
    return library


def _byte_level(directory: Path, settings: Mapping[str, Any], *, roberta: bool) -> Library:
    """Return the tokenizer for vocab.json and merges.txt. RoBERTa puts two `</s>` between the texts of a pair."""
    vocab, merges = directory / "vocab.json", directory / "merges.txt"
    ids = json_of(vocab)
    for token, number in ids.items():
        expect(number, int, f"{vocab}: {token!r}")
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{merges}: not UTF-8 text (byte {error.start})") from None
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        parts = line.rstrip("\r").split(" ")
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        if len(parts) != 2 or not all(part in ids for part in (*parts, "".join(parts))):
            raise UserError(
                f"{merges}:{number}: {line[:60]!r} is not two tokens of {vocab.name} whose concatenation is a token"
            )
        pairs.append((parts[0], parts[1]))
    library = Library(models.BPE(ids, pairs))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=_flag(directory, settings, "add_prefix_space", False)
    )
    library.decoder = decoders.ByteLevel()
    usual = ("<|endoftext|>", "<s>", "<pad>", "</s>", "<unk>", "<mask>")
    library.add_special_tokens([token for token in usual if token in ids])
    names = {"cls": "<s>", "sep": "</s>", **role_tokens(directory, settings)}
    if roberta and names["cls"] in ids and names["sep"] in ids:
        sep, cls = ((names[role], ids[names[role]]) for role in ("sep", "cls"))
        library.post_processor = processors.RobertaProcessing(sep, cls)
    return library


def _bytes(directory: Path, settings: Mapping[str, Any], tokens: list[Declared]) -> Bytes:
    extra_ids = expect(settings.get("extra_ids", _BYT5_EXTRA_IDS), int, f"{directory / CONFIG}: extra_ids")
    known = {"<pad>", "</s>", "<unk>", *(f"<extra_id_{i}>" for i in range(extra_ids))}
    if more := [token for token in tokens if token.content not in known]:
        raise UserError(f"{more[0].where}: {more[0].content!r} was added to ByT5's bytes, which is not supported")
    return Bytes(extra_ids=extra_ids)


def _our_bytes(library: Library) -> Bytes | None:
    """Return the Bytes vocabulary if the tokenizer is an export of one, otherwise None."""
    known = library.get_vocab(with_added_tokens=True)
    if not isinstance(library.model, models.BPE) or len(known) < 259 or known.get("<unk>") != 2:
        return None
    vocabulary = Bytes(extra_ids=len(known) - 259)
    if known != library_of(vocabulary).get_vocab(with_added_tokens=True):
        return None
    return None if difference(vocabulary.encode_marked, _ids(library), TEXTS) else vocabulary


def _sentencepiece(
    directory: Path, settings: Mapping[str, Any], options: Mapping[str, Any], library: Library
) -> SentencePiece | None:
    """Return the vocabulary for spiece.model and sentinels, or None if it is missing or is not the whole tokenizer."""
    family = options.get("model_type") in _SENTENCEPIECE
    if not (directory / "spiece.model").is_file():
        return None
    try:
        vocabulary = _spiece(directory, settings)
    except UserError:
        if family:
            raise
        return None
    # Sentinels may start with a space in spiece.model, but not in tokenizer.json.
    tables = [
        {name.removeprefix("▁") if "<extra_id_" in name else name: i for name, i in one.get_vocab(True).items()}
        for one in (library, library_of(vocabulary))
    ]
    if tables[0] != tables[1]:
        return None
    return vocabulary if family or difference(vocabulary.encode_marked, _ids(library), TEXTS) is None else None


def _spiece(directory: Path, settings: Mapping[str, Any]) -> SentencePiece:
    file = str(directory / "spiece.model")
    plain = SentencePiece(path=file)
    has_sentinels = plain.encode("<extra_id_0>")[-1:] == [plain.size - 1]
    extra_ids = expect(settings.get("extra_ids", 100), int, f"{directory / CONFIG}: extra_ids")
    return SentencePiece(path=file, extra_ids=0 if has_sentinels else extra_ids)


def _ids(library: Library) -> Any:
    return lambda text: library.encode(text, add_special_tokens=False).ids


def _roles(
    directory: Path, library: Library, settings: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, str | None]:
    """Return role -> token: from the tokenizer's files, from the id in config.json if it is a special token, or the usual token.

    Raises UserError if a file gives a token that the tokenizer does not have.
    """
    names, known, special = role_tokens(directory, settings), library.get_vocab(with_added_tokens=True), added(library)
    roles: dict[str, str | None] = {}
    for role in ROLES:
        found = names.get(role)
        if found is not None and found not in known and role in ("eos", "bos", "mask", "cls", "sep"):
            raise UserError(
                f"{directory}: {role}_token {found!r} ({CONFIG}, special_tokens_map.json) is not a token of the tokenizer"
            )
        if found is None or found not in known:
            number = options.get(f"{role}_token_id")
            number = number[0] if isinstance(number, list) and number else number
            found = library.id_to_token(number) if isinstance(number, int) and 0 <= number < 2**32 else None
            found = found if found in special else None
        roles[role] = found or next((name for name in _USUAL.get(role, ()) if name in known), None)
    if options.get("model_type") == "eurobert":
        first, last = _around(library)
        roles["cls"], roles["sep"] = roles["cls"] or first, roles["sep"] or last
    if options.get("model_type") in ("roberta", *XLM_ROBERTA, "albert", "mpnet", "deberta-v2"):
        roles["eos"] = roles["sep"] or roles["eos"]
        roles["cls"], roles["sep"] = roles["cls"] or roles["bos"], roles["sep"] or roles["eos"]
    if options.get("model_type") in ("bart", "t5gemma"):
        roles["cls"] = roles["cls"] or roles["bos"]
    if options.get("is_encoder_decoder") is True or options.get("model_type") in _SENTENCEPIECE:
        # The start token of the decoder; T5 uses padding.
        start = options.get("decoder_start_token_id")
        start = _STARTS.get(str(options.get("model_type")), 0) if start is None else start
        start = expect(start, int, f"{directory / 'config.json'}: decoder_start_token_id")
        roles["bos"] = library.id_to_token(start) if 0 <= start < 2**32 else None
    if _is_bert(library):
        roles["eos"] = roles["sep"] if roles["sep"] is not None else roles["eos"]
    return roles


def _around(library: Library) -> tuple[str | None, str | None]:
    """Return the tokens that the tokenizer adds before and after a text, or (None, None) if it does not add one on either side."""
    plain, whole = (library.encode("a", add_special_tokens=framed).tokens for framed in (False, True))
    return (whole[0], whole[-1]) if whole[1:-1] == plain else (None, None)


def _tokenizer(
    file: Path,
    library: Library,
    roles: Mapping[str, str | None],
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Tokenizer:
    others = dict(roles)
    eos, bos = others.pop("eos"), others["bos"]
    if eos is None:
        raise UserError(f"{file}: the end-of-sequence token is missing (eos_token in tokenizer_config.json)")
    add_bos = settings.get("add_bos_token")
    if not isinstance(add_bos, bool):
        add_bos = bos is not None and library.encode("a").ids[:1] == [library.token_to_id(bos)]
    encoder_decoder = options.get("is_encoder_decoder") is True
    add_bos = bos is not None and not encoder_decoder and add_bos
    cls = others["cls"]
    add_cls = cls is not None and encoder_decoder and library.encode("a").ids[:1] == [library.token_to_id(cls)]
    if encoder_decoder:
        _check_end(file, library, eos)
    return Tokenizer(path=str(file), eos=eos, add_bos=add_bos, add_cls=add_cls, extra_ids=_sentinels(library), **others)  # type: ignore[arg-type]


def _check_end(file: Path, library: Library, eos: str) -> None:
    """Raise UserError if the tokenizer adds another special token than EOS after each text, as that of mBART-25 adds the language."""
    framed = library.encode("a")
    words = [word for word, special in enumerate(framed.special_tokens_mask) if not special]
    for token in framed.tokens[words[-1] + 1 :] if words else []:
        if token != eos:
            raise UserError(
                f"{file}: it adds {token!r} after each text, which is not supported: only the end-of-sequence token {eos!r} is."
                " Remove it from post_processor"
            )


def added_before(vocabulary: Vocabulary) -> str | None:
    """Return the special token that the tokenizer's file adds before each text and `encode` does not, as the language of mBART-50. None if there is none."""
    if not isinstance(vocabulary, Tokenizer):
        return None
    framed = vocabulary.library().encode("a")
    first, special = framed.tokens[:1], framed.special_tokens_mask[:1]
    return first[0] if special == [1] and not vocabulary.adds_cls and framed.ids[0] != vocabulary.eos_id else None


def _sentinels(library: Library) -> int:
    """Return the number of sentinels. They have the last ids, in reverse order: `<extra_id_0>` is the last."""
    last = size_of(library) - 1
    return next(i for i in itertools.count() if library.token_to_id(f"<extra_id_{i}>") != last - i)


def trained_lengths(directory: Path) -> dict[str, int] | None:
    """Return the lengths of "inputs" and "targets" in training, which our exports contain; None for any other directory."""
    found = json_of(directory / CONFIG).get("trained_lengths")
    if found is None:
        return None
    where = f"{directory / CONFIG}: trained_lengths"
    lengths = {name: expect(expect(found, dict, where).get(name), int, where) for name in ("inputs", "targets")}
    if min(lengths.values()) < 1:
        raise UserError(f"{where}: expected lengths of at least 1, not {lengths}")
    return lengths

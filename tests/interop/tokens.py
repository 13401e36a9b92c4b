"""Compare tokenizers with `transformers`: the ids of imported tokenizers, and generation of our exports with that of `t2t infer`.

Needs `transformers`: see `make test-interop`.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from tokenizers import AddedToken

from t2t import models
from t2t.api.importing import experiment_for, parameters_alone
from t2t.api.inference import infer
from t2t.checkpoint import Checkpoints
from t2t.decode import fill_texts
from t2t.decode.answer_text import _framed
from t2t.export.token_check import TEXTS, difference, marked
from t2t.export.tokenizer_files import read_vocabulary
from t2t.launch.main import run
from t2t.nn.model import ModelConfig
from t2t.train.run import CHECKPOINTS, RunRecord, SavedRun, open_run
from t2t.vocabularies import Bytes, Marian, SentencePiece, Tokenizer, Vocabulary, WordPiece
from tests.export.test_xlm_roberta_tokenizer import xlm_pieces
from tests.test_marian_vocabulary import ENGLISH, GERMAN, LANGUAGE, marian_files
from tests.test_tokenizer import byte_level
from tests.test_vocabularies import trained

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "The", "fox", "##es", "cafe", "café", "a", "b", "end", "one", "two", "!", ".", ",", "-", "日", "本"]  # fmt: skip
ASKED = ("the quick brown fox", "a lazy dog jumps  over", "naïve café", "again and again")
LENGTH = 12


def main() -> int:
    """Print one row per case. Return 1 if a case differs."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    good = True
    with tempfile.TemporaryDirectory(prefix="t2t-tokens-") as folder:
        for name, found in itertools.chain(directories(Path(folder)), answers(Path(folder))):
            print(f"{name:44} {found or 'equal'}", flush=True)
            good &= found is None
    return 0 if good else 1


def directories(place: Path) -> Iterator[tuple[str, str | None]]:
    """Yield (name, difference) for each directory with tokenizer files. The difference of the ids to those of `transformers` is None if equal."""
    byte_level(place / "bpe.json")
    model = json.loads((place / "bpe.json").read_text())["model"]
    last = max(model["vocab"].values())
    for number, (name, (kind, files)) in enumerate(_sources(place, model, last).items()):
        directory = place / f"source-{number}"
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps({"model_type": kind, "vocab_size": 400}))
        for file, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, directory / file)
            else:
                (directory / file).write_text(
                    content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
                )
        theirs = transformers.AutoTokenizer.from_pretrained(directory)
        ours = read_vocabulary(directory, {"model_type": kind}, scratch=place)
        tokens = [token.content for token in theirs.added_tokens_decoder.values()][-6:]
        yield name, _differing(ours, theirs, [*TEXTS, *marked(tokens)]) or _pairs(ours, theirs)
    yield from _marian(place / "marian")


def _marian(directory: Path) -> Iterator[tuple[str, str | None]]:
    """Yield the differences of Marian's two sides, with a language before the texts and without one, and of decoded texts."""
    marian_files(directory)
    (directory / "config.json").write_text(json.dumps({"model_type": "marian"}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"source_lang": "en", "target_lang": "de"}))
    theirs = transformers.MarianTokenizer.from_pretrained(directory)
    ours = read_vocabulary(directory, {"model_type": "marian"}, scratch=directory)
    texts = [*TEXTS, *ENGLISH[:9], *GERMAN[:9]]
    texts += [
        form.format(text) for form in (f"{LANGUAGE} {{}}", f"{LANGUAGE}{{}}", ">>xyz<< {}", ">>{}<<") for text in texts
    ]
    yield "Marian, inputs", difference(ours.encode, lambda t: theirs(t, add_special_tokens=False)["input_ids"], texts)
    yield (
        "Marian, targets",
        difference(
            ours.of_targets.encode, lambda t: theirs(text_target=t, add_special_tokens=False)["input_ids"], texts
        ),
    )
    ids = [ours.of_targets.encode(text) for text in texts]
    changed = [one for one in ids if ours.unk_id not in one and ours.decode(one) != theirs.decode(one)]
    yield "Marian, decoded", repr(changed[0]) if changed else None


def _pairs(ours: Vocabulary, theirs: Any) -> str | None:
    """Compare the ids of text pairs with special tokens, if the tokenizer supports pairs."""
    if ours.cls_id is None or ours.sep_id is None:
        return None
    first, second = "the fox", "a café !"
    mine, wanted = _framed(ours, first, second).ids, theirs(first, second)["input_ids"]
    return None if mine == wanted else f"the pair {first!r}, {second!r}: {mine} and {wanted}"


def _differing(ours: Vocabulary, theirs: Any, texts: list[str]) -> str | None:
    return difference(ours.encode, lambda text: theirs(text, add_special_tokens=False)["input_ids"], texts)


def _sources(place: Path, model: dict[str, Any], last: int) -> dict[str, tuple[str, dict[str, Any]]]:
    vocab = "\n".join(WORDS)
    (place / "renamed.txt").write_text(vocab.replace("[CLS]", "<s>").replace("[SEP]", "</s>").replace("[MASK]", "<m>"))
    merges = "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"])
    ids = {**model["vocab"], "<|endoftext|>": last + 1}
    roberta = {**model["vocab"]} | {
        name: last + 1 + i for i, name in enumerate(("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    }
    bert = {"tokenizer_class": "BertTokenizer"}

    def token(content: str, **flags: bool) -> dict[str, Any]:
        return {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": True, "special": False, **flags}  # fmt: skip

    added = {
        str(last + 1): token("<|endoftext|>", normalized=False, special=True),
        str(last + 2): token("<left>", lstrip=True),
        str(last + 3): token("<right>", rstrip=True, special=True, normalized=False),
        str(last + 4): token("word", single_word=True),
    }
    transformers.BertTokenizer(vocab={w: i for i, w in enumerate(WORDS)}).save_pretrained(place / "saved")
    piece = Path(trained(place / "piece.model"))
    return {
        "BERT vocab.txt": ("bert", {"vocab.txt": vocab, "tokenizer_config.json": bert}),
        "BERT cased": ("bert", {"vocab.txt": vocab, "tokenizer_config.json": {**bert, "do_lower_case": False}}),
        "BERT lower, accents kept": (
            "bert",
            {"vocab.txt": vocab, "tokenizer_config.json": {**bert, "strip_accents": False}},
        ),
        "BERT cased, accents stripped": (
            "bert",
            {"vocab.txt": vocab, "tokenizer_config.json": {**bert, "do_lower_case": False, "strip_accents": True}},
        ),
        "BERT Chinese in one": (
            "bert",
            {"vocab.txt": vocab, "tokenizer_config.json": {**bert, "tokenize_chinese_chars": False}},
        ),
        "BERT tokens renamed": (
            "bert",
            {
                "vocab.txt": place / "renamed.txt",
                "tokenizer_config.json": {**bert, "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<m>"},
            },
        ),
        "BERT tokenizer.json, settings beside it": (
            "bert",
            {
                "tokenizer.json": place / "saved" / "tokenizer.json",
                "tokenizer_config.json": {**bert, "do_lower_case": False},
            },
        ),
        "GPT-2 vocab.json": (
            "gpt2",
            {"vocab.json": ids, "merges.txt": merges, "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}},
        ),
        "GPT-2 with a space before": (
            "gpt2",
            {
                "vocab.json": ids,
                "merges.txt": merges,
                "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True},
            },
        ),
        "GPT-2 added_tokens_decoder": (
            "gpt2",
            {
                "vocab.json": model["vocab"],
                "merges.txt": merges,
                "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": added},
            },
        ),
        "GPT-2 tokenizer.json, more tokens beside it": (
            "gpt2",
            {
                "tokenizer.json": place / "bpe.json",
                "tokenizer_config.json": {
                    "tokenizer_class": "PreTrainedTokenizerFast",
                    "eos_token": "<|endoftext|>",
                    "added_tokens_decoder": added,
                },
            },
        ),
        "GPT-2 added_tokens.json": (
            "gpt2",
            {
                "vocab.json": ids,
                "merges.txt": merges,
                "added_tokens.json": {"<new>": last + 2, "Mixed": last + 3},
                "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"},
            },
        ),
        "RoBERTa, the mask takes its space": (
            "roberta",
            {
                "vocab.json": roberta,
                "merges.txt": merges,
                "tokenizer_config.json": {"tokenizer_class": "RobertaTokenizer"},
                "special_tokens_map.json": {"mask_token": token("<mask>", lstrip=True, normalized=False)},
            },
        ),
        "XLM-RoBERTa sentencepiece.bpe.model": ("xlm-roberta", _xlm_roberta(place)),
        "XLM-RoBERTa tokenizer.json": ("xlm-roberta", _xlm_roberta(place, library=True)),
        "T5 tokenizer.json, a token added": ("t5", _t5(place, piece)),
        **_deberta(place),
    }


def _xlm_roberta(place: Path, *, library: bool = False) -> dict[str, Any]:
    """Return the files of XLM-RoBERTa. library: with the tokenizer.json that `transformers` makes of them."""
    piece, made = Path(xlm_pieces(place / "xlm.model")), place / "xlm"
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512}
    roles = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>"}
    mask = {"content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": True}
    files: dict[str, Any] = {
        "sentencepiece.bpe.model": piece,
        "tokenizer_config.json": settings,
        "special_tokens_map.json": {**{f"{role}_token": token for role, token in roles.items()}, "mask_token": mask},
    }
    if library:
        made.mkdir()
        shutil.copyfile(piece, made / piece.name)
        transformers.XLMRobertaTokenizer.from_pretrained(made, vocab_file=str(piece)).save_pretrained(made)
        files["tokenizer.json"] = made / "tokenizer.json"
    return files


def _deberta(place: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    names = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    ids = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    pieces = Path(trained(place / "spm.model", **names, **ids, user_defined_symbols=["<own>"]))
    plain = {"do_lower_case": False, "vocab_type": "spm"}
    cases = {
        "as published": {"tokenizer_config.json": plain},
        "[MASK] declared": {"tokenizer_config.json": plain, "added_tokens.json": {"[MASK]": 380}},
        "lower case, split at punctuation": {
            "tokenizer_config.json": {"do_lower_case": True, "split_by_punct": True, "add_prefix_space": False}
        },
    }
    found = {f"DeBERTa {name}": ("deberta-v2", {"spm.model": pieces, **files}) for name, files in cases.items()}
    transformers.DebertaV2Tokenizer.from_pretrained(_written(place / "plain", pieces, plain)).save_pretrained(
        place / "saved-deberta"
    )
    saved = {name: place / "saved-deberta" / name for name in ("tokenizer.json", "tokenizer_config.json")}
    return {**found, "DeBERTa tokenizer.json": ("deberta-v2", saved)}


def _written(directory: Path, pieces: Path, settings: dict[str, Any]) -> Path:
    directory.mkdir()
    shutil.copyfile(pieces, directory / "spm.model")
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def _t5(place: Path, piece: Path) -> dict[str, Any]:
    from t2t.export.tokenizer_json import framed_library

    library = framed_library(SentencePiece(path=str(piece), extra_ids=100), "encoder_decoder")
    library.add_tokens([AddedToken("<sep>", normalized=True)])
    library.save(str(place / "t5.json"))
    return {
        "tokenizer.json": place / "t5.json",
        "spiece.model": piece,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "</s>",
            "pad_token": "<pad>",
        },
    }


def answers(place: Path) -> Iterator[tuple[str, str | None]]:
    """Yield (name, difference) for each model and vocabulary: the difference between `transformers` on our export and t2t, None if equal."""
    (place / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    vocabularies: dict[str, Vocabulary] = {
        "bytes": Bytes(extra_ids=5),
        "SentencePiece": SentencePiece(path=trained(place / "unigram.model"), extra_ids=4),
        "SentencePiece BPE": SentencePiece(path=trained(place / "merged.model", model_type="bpe"), extra_ids=4),
        "tokenizer.json": Tokenizer(path=str(place / "bpe.json"), eos="<|endoftext|>", extra_ids=3),
    }
    sizes: dict[str, int] = {"num_layers": 2, "d_model": 32, "num_heads": 2, "d_ff": 64, "vocab_size": 512}
    for name, vocabulary in vocabularies.items():
        for family, config in (
            ("GPT", models.gpt.gpt(**sizes)),
            ("LLaMA", models.llama.llama(**sizes)),
            ("T5", models.t5.t5(**sizes)),
        ):
            yield f"{family} over {name}", _generated(place / f"{family}-{name}", config, vocabulary)
    table = marian_files(place / "marian-answers")
    yield (
        "Marian over two models",
        _generated(place / "Marian", models.marian.marian(**sizes), Marian(path=str(table))),
    )
    words: Vocabulary = WordPiece(path=str(place / "vocab.txt"))
    for name, vocabulary in {"WordPiece": words, **vocabularies}.items():
        yield f"BERT over {name}", _filled(place / f"BERT-{name}", models.bert.bert(**sizes), vocabulary)


def made(directory: Path, config: ModelConfig, vocabulary: Vocabulary) -> tuple[SavedRun, Path]:
    """Return a run and its export. The random parameters are large, so that different outputs are likely."""
    experiment = experiment_for(config)
    open_run(directory / "run", RunRecord(recipe="random", experiment=experiment, vocabulary=vocabulary))
    params = jax.tree.map(lambda leaf: leaf * 4, config.build().init(jax.random.key(7)))
    with Checkpoints(directory / "run" / CHECKPOINTS, experiment.checkpoint) as checkpoints:
        checkpoints.save(0, parameters_alone(params), {}, {})
    assert run(["export", str(directory / "run"), "--format", "huggingface", "--out", str(directory / "out")]) == 0
    return SavedRun.load(directory / "run"), directory / "out"


def _generated(directory: Path, config: ModelConfig, vocabulary: Vocabulary) -> str | None:
    ours, out = made(directory, config, vocabulary)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    loader = transformers.AutoModelForCausalLM if config.kind == "decoder" else transformers.AutoModelForSeq2SeqLM
    model = loader.from_pretrained(out, dtype=torch.float32).eval()
    for closed in (True, False) if config.kind == "decoder" else (True,):
        asked = list(ASKED)
        if closed and config.kind == "decoder":  # as at the end of a task's inputs
            before = "" if vocabulary.prepends_bos else tokenizer.bos_token
            asked = [f"{before}{text}{tokenizer.eos_token}" for text in ASKED]
        for text, one in zip(ASKED, asked, strict=True):
            ((wanted,),) = infer(ours, [text], max_length=LENGTH, continue_text=not closed)
            given = tokenizer(one, return_tensors="pt")
            with torch.no_grad():
                found = model.generate(**given, max_new_tokens=LENGTH, do_sample=False)[0]
            found = found[given["input_ids"].shape[1] :] if config.kind == "decoder" else found[1:]
            said = vocabulary.decode(found.tolist())
            if said != wanted.text:
                return f"{text!r}: here {wanted.text!r}, there {said!r}"
    return None


def _filled(directory: Path, config: ModelConfig, vocabulary: Vocabulary) -> str | None:
    ours, out = made(directory, config, vocabulary)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForMaskedLM.from_pretrained(out, dtype=torch.float32).eval()
    for text in ("the quick <mask> fox", "<mask> end.", "one <mask>, two"):
        wanted = fill_texts(ours.model, ours.params(), vocabulary, [text], top=3)[0][0]
        given = tokenizer(text.replace("<mask>", tokenizer.mask_token), return_tensors="pt")
        with torch.no_grad():
            logits = model(**given).logits[0]
        place = given["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        shares = torch.softmax(logits[place, : vocabulary.size], -1)
        found = torch.topk(torch.softmax(logits[place], -1), 3)
        if found.indices.tolist() != [one.id for one in wanted] or not np.allclose(
            found.values, [one.probability for one in wanted], atol=1e-4
        ):
            return (
                f"{text!r}: here {[(one.id, one.probability) for one in wanted]}, there {found}, {float(shares.sum())}"
            )
    return None


if __name__ == "__main__":
    sys.exit(main())

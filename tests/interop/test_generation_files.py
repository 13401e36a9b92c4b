"""Which ids end a text: in from config.json and generation_config.json, with the run, and out again."""

import json

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers

from t2t.errors import UserError
from t2t.export.generation_files import Generation, generation_config, ids_of
from t2t.export.tokenizer_files import read_vocabulary
from t2t.launch.export import export
from t2t.launch.import_model import import_model
from t2t.train.run import SavedRun
from t2t.vocabularies import Bytes
from tests.interop.cases import CASES
from tests.interop.goldens import write_directory

BY_NAME = {case.name: case for case in CASES}
SPECIAL = ("<|begin|>", "<|end|>", "<|turn|>", "<|pad|>")


def tokenizer(directory, *, eos="<|end|>"):
    """Write a tokenizer.json of words, special tokens first."""
    words = [*SPECIAL, *(f"w{i}" for i in range(92))]
    library = Library(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.add_special_tokens(list(SPECIAL))
    library.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos, "bos_token": "<|begin|>"}))


def vocabulary(directory, *, config=None, generation=None, kind="decoder"):
    """Return the vocabulary of a tokenizer with what the two files say."""
    directory.mkdir(exist_ok=True)
    tokenizer(directory)
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    options = {"model_type": "llama", **(config or {})}
    own = read_vocabulary(directory, options, scratch=directory)
    return Generation(directory, options).applied(own, kind)


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        ({}, None, (1,)),
        ({"eos_token_id": 1}, None, (1,)),
        ({"eos_token_id": [1, 2]}, None, (1, 2)),
        ({"eos_token_id": 1}, {"eos_token_id": [1, 2]}, (1, 2)),
        ({"eos_token_id": [1, 2]}, {"eos_token_id": [2, 1]}, (1, 2)),
        ({"eos_token_id": [1, 2]}, {"eos_token_id": 1}, (1,)),
        ({"eos_token_id": [1, 2]}, {"pad_token_id": 3}, (1, 2)),
        ({"eos_token_id": [1, 2]}, {"eos_token_id": None}, (1, 2)),
        # The tokenizer's own end is none of them: transformers does not stop there.
        ({"eos_token_id": 1}, {"eos_token_id": 2}, (2,)),
        ({"eos_token_id": [2, 3]}, None, (2, 3)),
        # A word as the end is no token that is cut out of texts.
        ({"eos_token_id": 7}, None, (1, 7)),
        ({"eos_token_id": -1}, None, (1,)),
        ({"eos_token_id": [1, 1, 2]}, None, (1, 2)),
    ],
)
def test_generation_config_goes_before_config_and_both_before_the_tokenizer(config, generation, ends, tmp_path):
    found = vocabulary(tmp_path, config=config, generation=generation)
    assert found.end_ids == ends
    assert found.encode("w1 w7 <|turn|>") == [5, 11, 2]


def test_an_encoder_generates_nothing(tmp_path):
    assert vocabulary(tmp_path, config={"eos_token_id": [1, 2]}, kind="encoder").end_ids == (1,)


@pytest.mark.parametrize(
    ("generation", "kind", "message"),
    [
        ({"eos_token_id": [1, 96]}, "decoder", r"generation_config.json: eos_token_id 96 is not one of .* 96 ids"),
        ({"eos_token_id": "</s>"}, "decoder", r"eos_token_id is '</s>': expected an id or a list of ids"),
        ({"eos_token_id": [1, "2"]}, "decoder", r"eos_token_id is \[1, '2'\]"),
        ({"eos_token_id": True}, "decoder", r"eos_token_id is True"),
        ({"eos_token_id": [[1]]}, "decoder", r"eos_token_id is \[\[1\]\]"),
        ({"decoder_start_token_id": 2}, "encoder_decoder", r"generation_config.json: decoder_start_token_id is 2"),
    ],
)
def test_ids_that_cannot_be_are_refused(generation, kind, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        vocabulary(tmp_path, generation=generation, kind=kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "generation", "lost"),
    [
        ({}, None, []),
        ({"max_length": 20, "num_beams": 1}, {"do_sample": False, "temperature": 0.6}, []),
        ({}, {"do_sample": True, "temperature": 0.6}, ["do_sample = True", "temperature = 0.6"]),
        ({"num_beams": 4}, {"max_length": 4096}, ["num_beams = 4", "max_length = 4096"]),
        ({"forced_bos_token_id": 5}, None, ["forced_bos_token_id = 5"]),
        ({}, {"suppress_tokens": [], "begin_suppress_tokens": [3]}, ["begin_suppress_tokens = [3]"]),
    ],
)
def test_defaults_of_generation_that_are_not_kept_are_named(config, generation, lost, tmp_path):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert Generation(tmp_path, config).not_carried("decoder") == lost
    assert Generation(tmp_path, config).not_carried("encoder") == []


def test_several_ends_are_written_as_a_list():
    assert ids_of(Bytes())["eos_token_id"] == 1
    several = Bytes(ends=(5, 9))
    assert ids_of(several)["eos_token_id"] == [1, 5, 9]
    made = generation_config(several, {"architectures": ["T5ForConditionalGeneration"]}, {"targets": 7})
    assert made == {
        "bos_token_id": 0,
        "eos_token_id": [1, 5, 9],
        "pad_token_id": 0,
        "max_new_tokens": 7,
        "suppress_tokens": [0],
    }
    assert generation_config(several, {"architectures": ["BertForSequenceClassification"]}, None) is None


@pytest.mark.parametrize("name", ["LLaMA 3: grouped, llama3 positions", "GPT-2 as published"])
def test_a_run_keeps_its_ends_and_an_export_of_it_and_of_what_was_tuned_writes_them(name, tmp_path, capsys):
    theirs, run, out = tmp_path / "theirs", tmp_path / "run", tmp_path / "out"
    write_directory(BY_NAME[name], theirs, eos_token_id=[1, 2])
    tokenizer(theirs)
    (theirs / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2], "max_length": 64}))
    import_model(str(theirs), dir=str(run), check=False)
    assert "generation defaults that the run does not keep" in capsys.readouterr().err
    assert SavedRun.load(run).vocabulary.end_ids == (1, 2)
    export(str(run), format="huggingface", out=str(out), check=False)
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": [1, 2], "max_length": 64}
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == [1, 2]
    # What goes on from the run has no files that were kept: they are written anew.
    for kept in (run / "huggingface").iterdir():
        kept.unlink()
    (run / "huggingface").rmdir()
    (run / "checksums.json").unlink()
    export(str(run), format="huggingface", out=str(tmp_path / "anew"), check=False)
    assert json.loads((tmp_path / "anew" / "generation_config.json").read_text())["eos_token_id"] == [1, 2]

"""The files of published checkpoints: several with an index, tensors stored twice, fewer tokens than rows of the embeddings, FLAN-UL2."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers

from t2t.api.importing import experiment_for
from t2t.errors import UserError
from t2t.export.generation_files import Generation, generation_config
from t2t.export.huggingface import opened
from t2t.export.tokenizer_files import read_vocabulary
from t2t.models.families import family_of
from t2t.sharding import MeshConfig
from t2t.train.experiment import check_vocabulary
from t2t.vocabularies import Bytes
from tests.interop.cases import CASES
from tests.interop.goldens import write_directory
from tests.interop.test_published_t5 import FLAN_UL2

BY_NAME = {case.name: case for case in CASES}
T5, TIED = BY_NAME["T5 1.0"], BY_NAME["LLaMA SmolLM2: tied, linear positions"]
GPT, UL2 = BY_NAME["GPT-2 as published"], BY_NAME["T5 gated SiLU, deeper decoder"]
TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def read(directory):
    with opened(directory, family_of) as source:
        return source.config, source.params(MeshConfig().build())


def divide(directory, *groups):
    """Store the tensors in a file for each group of copies (new name -> tensor), the others in the last file, with an index."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    parts = [{name: tensors[of].copy() for name, of in group.items()} for group in groups]
    parts[-1] |= {name: value for name, value in tensors.items() if not any(name in part for part in parts)}
    places = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        save_file(part, directory / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return places


@pytest.mark.parametrize(
    ("case", "table", "copies"),
    [
        (T5, "shared.weight", (*TABLES, "lm_head.weight")),
        (TIED, "model.embed_tokens.weight", ("lm_head.weight",)),
        (GPT, "transformer.wte.weight", ("lm_head.weight",)),
    ],
    ids=["T5", "LLaMA", "GPT-2"],
)
def test_a_tied_tensor_in_several_files_is_read_once_and_its_copies_must_be_equal(case, table, copies, tmp_path):
    write_directory(case, tmp_path / "today")
    write_directory(case, tmp_path / "published")
    places = divide(tmp_path / "published", {table: table}, dict.fromkeys(copies, table))
    assert {places[name] for name in (table, *copies)} == {
        f"model-0000{number}-of-00002.safetensors" for number in (1, 2)
    }
    config, params = read(tmp_path / "published")
    assert config == read(tmp_path / "today")[0]
    jax.tree.map(np.testing.assert_array_equal, params, read(tmp_path / "today")[1])
    file = tmp_path / "published" / places[copies[0]]
    tensors = load_file(file)
    tensors[copies[0]] += 1
    save_file(tensors, file)
    if case is not T5:  # another lm_head is a T5 with a separate head
        with pytest.raises(UserError, match=rf"{table} and {copies[0]} differ"):
            read(tmp_path / "published")


def test_an_index_with_a_file_that_is_missing_is_refused_by_name(tmp_path):
    write_directory(GPT, tmp_path)
    divide(tmp_path, {"transformer.wte.weight": "transformer.wte.weight"}, {})
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00001-of-00002.safetensors"):
        read(tmp_path)


def test_a_table_padded_with_rows_that_no_token_has_keeps_them_and_never_generates_them(tmp_path):
    """As T5's 32,128 rows for 32,100 tokens."""
    write_directory(TIED, tmp_path, eos_token_id=1)
    words = [f"w{i}" for i in range(80)]
    library = Library(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "w1"}))
    own = read_vocabulary(tmp_path, {"model_type": "llama"}, scratch=tmp_path)
    config, params = read(tmp_path)
    assert (own.size, config.vocab_size, params["embeddings"]["token"]["table"].shape[0]) == (80, 96, 96)
    check_vocabulary(experiment_for(config), own)
    options = {"architectures": ["LlamaForCausalLM"], "vocab_size": 96}
    assert generation_config(own, options, None)["suppress_tokens"] == list(range(80, 96))
    with pytest.raises(UserError, match=r"vocab_size 96 \(--model.vocab-size\) is less than the 359 ids"):
        check_vocabulary(experiment_for(config), Bytes())


def test_flan_ul2_is_read_as_it_is_stored_and_generates_as_its_files_say(tmp_path):
    """bfloat16 in several files, with both copies of the table, and the generation_config.json of the published model."""
    write_directory(UL2, tmp_path / "today")
    write_directory(UL2, tmp_path / "published")
    for place in ("today", "published"):
        file = tmp_path / place / "model.safetensors"
        save_file({name: value.astype(ml_dtypes.bfloat16) for name, value in load_file(file).items()}, file)
    copies = dict.fromkeys(("shared.weight", *TABLES), "shared.weight")
    divide(tmp_path / "published", copies, {"lm_head.weight": "lm_head.weight"})
    (tmp_path / "published" / "config.json").write_text(json.dumps(FLAN_UL2))
    generation = {"_from_model_config": True, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    (tmp_path / "published" / "generation_config.json").write_text(json.dumps(generation))
    config, params = read(tmp_path / "published")
    assert (config.tied, config.scaled_head, config.encoder.activation, config.encoder.gated) == (
        False,
        False,
        "silu",
        True,
    )
    jax.tree.map(np.testing.assert_array_equal, params, read(tmp_path / "today")[1])
    found = Generation(tmp_path / "published", FLAN_UL2)
    assert found.not_carried("encoder_decoder") == []
    own = found.applied(Bytes(), "encoder_decoder")
    assert (own.bos_id, own.end_ids, own.forced) == (0, (1,), None)

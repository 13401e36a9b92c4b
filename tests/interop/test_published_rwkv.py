"""RWKV-4 as it was published: its config.json, and what is refused."""

from types import SimpleNamespace

import pytest

from t2t.errors import UserError
from t2t.export.family import Options, canonical
from t2t.export.huggingface import opened
from t2t.models import preset
from t2t.models.families import exportable, family_of
from tests.interop.cases import CASES
from tests.interop.goldens import write_directory

CASE = next(case for case in CASES if case.name == "RWKV-4 as published")
PUBLISHED = {
    "architectures": ["RwkvForCausalLM"],
    "attention_hidden_size": 768,
    "bos_token_id": 0,
    "context_length": 1024,
    "eos_token_id": 0,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_epsilon": 1e-05,
    "model_type": "rwkv",
    "num_hidden_layers": 12,
    "rescale_every": 6,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.29.0.dev0",
    "use_cache": True,
    "vocab_size": 50277,
}
"""rwkv-4-169m-pile."""


def test_the_published_configuration_is_that_of_the_preset():
    made = preset("rwkv:4-169m")
    family, options, _ = exportable(made)
    assert {name: PUBLISHED[name] for name in options} == options
    read = Options(PUBLISHED, where="config.json")
    assert canonical(family.config(read, SimpleNamespace())) == canonical(made)
    read.finish()


def test_another_chunk_size_is_the_same_model():
    assert exportable(preset("rwkv:4-169m", chunk=7))[1] == exportable(preset("rwkv:4-169m"))[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"attention_hidden_size": 64},
            r"attention_hidden_size is 64: time mixing has the width of the stack; only 32",
        ),
        ({"layer_norm_epsilon": 1e-6}, r"layer_norm_epsilon is 1e-06: transformers always computes the last norm"),
        ({"head_size": 64}, r"unknown option head_size = 64"),
    ],
)
def test_what_it_lacks_is_refused_by_name(options, message, tmp_path):
    write_directory(CASE, tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of):
        pass
    assert "\n" not in str(caught.value)

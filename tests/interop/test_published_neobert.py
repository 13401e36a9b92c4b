"""NeoBERT as it was published: logits of a second implementation, tensors there and back, and what is refused."""

import json
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t2t.errors import UserError
from t2t.export.family import canonical
from t2t.export.huggingface import differing, opened, write_huggingface
from t2t.export.readme import huggingface_readme
from t2t.launch.convert_check import convert_check
from t2t.models import preset
from t2t.models.families import exportable, family_of
from t2t.models.neobert.presets import inner_width
from t2t.sharding import MeshConfig
from t2t.types import Batch
from t2t.vocabularies import Bytes
from tests.interop import neobert, ours
from tests.models.tiny import quick_jit

TEXTS = [np.random.default_rng(length).integers(3, neobert.VOCAB, length) for length in (11, 6)]
HEADS = {
    "tokens": {},
    "label": {
        "architectures": ["NeoBERTForSequenceClassification"],
        "id2label": {str(i): label for i, label in enumerate(neobert.LABELS)},
    },
    "": {"architectures": ["NeoBERT"]},
}


def rows(packed):
    """Return the texts as a batch: in one row, or in a row each with padding."""
    if packed:
        ids, counts = np.concatenate(TEXTS)[None], [len(text) for text in TEXTS]
        segments = np.repeat([1, 2], counts)[None]
        positions = np.concatenate([np.arange(count) for count in counts])[None]
        tokens = ours.Tokens(*(x.astype(np.int32) for x in (ids, positions, segments)))
    else:
        mask = np.array([np.arange(len(TEXTS[0])) < len(text) for text in TEXTS]).astype(int)
        ids = np.zeros_like(mask)
        ids[mask == 1] = np.concatenate(TEXTS)
        tokens = ours.tokens(ids, mask)
    return Batch(encoder=tokens, decoder=None, targets=tokens.ids, weights=np.ones(tokens.ids.shape, np.float32))


@pytest.mark.parametrize("head", HEADS)
def test_logits_are_those_of_the_second_implementation_and_tensors_go_as_they_came(head, tmp_path):
    tensors = neobert.write(tmp_path / "theirs", head, **HEADS[head])
    with opened(tmp_path / "theirs", family_of) as source:
        assert not source.left_out
        params = source.params(MeshConfig().build())
        assert differing(source, params) == []
    logits = quick_jit(source.model.logits)
    expected = [neobert.logits(tensors, text) for text in TEXTS]
    apart = np.asarray(logits(params, rows(packed=False)))
    together = np.asarray(logits(params, rows(packed=True)))[0]
    for row, wanted in enumerate(expected):
        begin, length = (0, len(TEXTS[0]))[row], len(TEXTS[row])
        for found in (apart[row, :length], together[begin : begin + length]):
            np.testing.assert_allclose(found[0] if head == "label" else found, wanted, atol=2e-5)

    family, options, wanted = exportable(source.config)
    # Without a head, EuroBERT computes the same, and transformers has it.
    assert family.name == ("NeoBERT" if head else "EuroBERT")
    write_huggingface(params, options, wanted, Bytes(), tmp_path / "ours", kind="encoder")
    with opened(tmp_path / "ours", family_of) as back:
        assert canonical(back.config) == canonical(source.config)
        jax.tree.map(np.testing.assert_array_equal, back.params(MeshConfig().build()), params)
    if head:
        written = load_file(tmp_path / "ours" / "model.safetensors")
        assert written.keys() == tensors.keys()
        for name, value in tensors.items():
            np.testing.assert_array_equal(written[name], value, err_msg=name)
        config = json.loads((tmp_path / "ours" / "config.json").read_text())
        assert config["architectures"] == HEADS[head].get("architectures", ["NeoBERTLMHead"])
        assert inner_width(config["intermediate_size"]) == neobert.INNER
        for name in ("decoder_init_range", "max_length", "norm_eps", "vocab_size"):
            assert config[name] == neobert.CONFIG[name]


def test_the_base_model_lacks_the_prefix(tmp_path):
    neobert.write(tmp_path / "whole", "", architectures=["NeoBERT"])
    neobert.write(tmp_path / "base", "", architectures=["NeoBERT"])
    whole = load_file(tmp_path / "base" / "model.safetensors")
    save_file({name.removeprefix("model."): x for name, x in whole.items()}, tmp_path / "base" / "model.safetensors")
    params = []
    for name in ("whole", "base"):
        with opened(tmp_path / name, family_of) as source:
            params.append(source.params(MeshConfig().build()))
    jax.tree.map(np.testing.assert_array_equal, *params)


def test_the_preset_has_the_shapes_of_the_published_file():
    family, options, wanted = exportable(preset("neobert:250m"))
    assert family.name == "NeoBERT"
    assert options["intermediate_size"] == 3072
    shapes = {tensor.name: tensor.shape for tensor in wanted}
    assert len(shapes) == 172
    layer = "model.transformer_encoder.27"
    published = {
        "decoder.bias": (30522,),
        "decoder.weight": (30522, 768),
        "model.encoder.weight": (30522, 768),
        "model.layer_norm.weight": (768,),
        f"{layer}.attention_norm.weight": (768,),
        f"{layer}.ffn.w12.weight": (4096, 768),
        f"{layer}.ffn.w3.weight": (768, 2048),
        f"{layer}.ffn_norm.weight": (768,),
        f"{layer}.qkv.weight": (2304, 768),
        f"{layer}.wo.weight": (768, 768),
    }
    assert shapes.items() >= published.items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim_head": 16}, r"dim_head is 16: it is hidden_size / num_attention_heads; only 8 is supported"),
        ({"encoder_init_range": 0.02}, r"unknown option encoder_init_range = 0.02"),
        ({"rope_scaling": {"type": "yarn"}}, r"unknown option rope_scaling"),
        ({"intermediate_size": 72}, r"ffn.w12.weight has shape 80x24; the configuration expects 96x24"),
        ({"architectures": ["NeoBERTForQuestionAnswering"]}, r"supported are NeoBERTForSequenceClassification"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused_by_name(options, message, tmp_path):
    neobert.write(tmp_path / "theirs", **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path / "theirs", family_of):
        pass
    assert "\n" not in str(caught.value)


def test_convert_check_says_that_transformers_has_no_such_model(tmp_path, monkeypatch):
    neobert.write(tmp_path / "theirs")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    library = SimpleNamespace(CONFIG_MAPPING={"bert": None}, __version__="5.24.0", logging=MagicMock())
    monkeypatch.setitem(sys.modules, "transformers", library)
    with pytest.raises(UserError, match=r"transformers 5.24.0 has no NeoBERT to compare with"):
        convert_check(str(tmp_path / "theirs"))


def test_the_readme_of_an_export_names_the_repository_of_the_code(tmp_path):
    _, options, _ = exportable(preset("neobert:250m", num_layers=1))
    text = huggingface_readme(
        "encoder", "NeoBERTLMHead", needs_sentencepiece=False, prepends_bos=False, auto_map=options["auto_map"]
    )
    assert 'AutoModelForMaskedLM.from_pretrained(".", trust_remote_code=True)' in text
    assert "the code of chandar-lab/NeoBERT" in text

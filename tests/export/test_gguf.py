"""GGUF files: small ones are read rightly; damaged ones, and ones made to mislead, are refused in one line."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from t2t.errors import UserError
from t2t.export.gguf import gguf_directory
from t2t.nn.rotary import shuffled
from tests.damage import changed_bytes, told

gguf = pytest.importorskip("gguf", reason="the extra [gguf] is not installed")

WIDE, MLP = 16, 24
TOKENS = ["t", "0", "t0", "a", "b", "c", "<s>", "</s>"]


def write(path, *, tokens=TOKENS, merges=("t 0",), kinds=None, without=(), more=None):
    """Write a LLaMA of one layer; return its tensors."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(WIDE)
    writer.add_block_count(1)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDE // 2)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(tokens))
    writer.add_token_types([1] * (len(tokens) - 2) + [3, 3] if kinds is None else kinds)
    writer.add_token_merges(list(merges))
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    for add in more or ():
        add(writer)
    random = np.random.default_rng(0)
    sizes = {"token_embd": (len(tokens), WIDE), "output_norm": (WIDE,), "output": (len(tokens), WIDE)}
    sizes |= {f"blk.0.attn_{part}": (WIDE, WIDE) for part in ("q", "k", "v", "output")}
    sizes |= {"blk.0.attn_norm": (WIDE,), "blk.0.ffn_norm": (WIDE,)}
    sizes |= {"blk.0.ffn_gate": (MLP, WIDE), "blk.0.ffn_up": (MLP, WIDE), "blk.0.ffn_down": (WIDE, MLP)}
    made = {f"{name}.weight": random.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    for name, value in made.items():
        if name not in without:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a file that is right."""
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    write(path)
    return path.read_bytes()


def read(content, place):
    (place / "x.gguf").write_bytes(content)
    gguf_directory(place / "x.gguf", place)


def test_a_small_file_becomes_a_directory(tmp_path):
    made = write(tmp_path / "x.gguf")
    gguf_directory(tmp_path / "x.gguf", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(tensors["model.embed_tokens.weight"], made["token_embd.weight"])
    queries = shuffled(made["blk.0.attn_q.weight"], 2, to_halves=True)
    np.testing.assert_array_equal(tensors["model.layers.0.self_attn.q_proj.weight"], queries)
    options = json.loads((tmp_path / "config.json").read_text())
    assert (options["bos_token_id"], options["eos_token_id"], options["head_dim"]) == (6, [7], 8)


def after(key, delta, code, value):
    """Return what writes a number behind a name."""

    def change(content):
        struct.pack_into(code, content, bytes(content).index(key) + len(key) + delta, value)

    return change


def at(offset, code, value):
    return lambda content: struct.pack_into(code, content, offset, value)


HUGE = 2**60
CRAFTED = {
    "magic": (at(0, "<I", 0), "does not start with GGUF"),
    "version": (at(4, "<I", 9), "version 9"),
    "tensors": (at(8, "<Q", HUGE), "do not fit"),
    "more tensors": (at(8, "<Q", 13), "damaged, or not a GGUF file"),
    "no fields": (at(16, "<Q", 0), "damaged, or not a GGUF file"),
    "fields": (at(16, "<Q", HUGE), "do not fit"),
    "length of a name": (at(24, "<Q", 2**62), "do not fit"),
    "name without letters": (at(24, "<Q", 0), "a field has no name"),
    "kind of a field": (after(b"llama.block_count", 0, "<I", 99), "has unknown type 99"),
    "tokens": (after(b"tokenizer.ggml.tokens", 8, "<Q", HUGE), "do not fit"),
    "tokens not text": (after(b"tokenizer.ggml.tokens", 4, "<I", 77), "has unknown type 77"),
    "token not UTF-8": (after(b"tokenizer.ggml.tokens", 24, "<B", 255), "is not UTF-8"),
    "no heads": (after(b"attention.head_count", 4, "<I", 0), "head_count is 0"),
    "heads": (after(b"attention.head_count", 4, "<I", 3), "not a multiple|rows"),
    "no groups": (after(b"attention.head_count_kv", 4, "<I", 0), "head_count_kv is 0"),
    "groups": (after(b"attention.head_count_kv", 4, "<I", 3), "not a multiple of head_count_kv 3"),
    "no dimension": (after(b"rope.dimension_count", 4, "<I", 0), "dimension_count is 0"),
    "dimension": (after(b"rope.dimension_count", 4, "<I", 7), "is 7; rotary positions need an even number"),
    "other dimension": (after(b"rope.dimension_count", 4, "<I", 4), "has 16 rows; .* give 8"),
    "blocks": (after(b"block_count", 4, "<I", 2**31), "block_count"),
    "more blocks": (after(b"block_count", 4, "<I", 2), "block_count is 2, but there are 1"),
    "width": (after(b"embedding_length", 4, "<I", 0), "embedding_length is 0"),
    "epsilon": (after(b"layer_norm_rms_epsilon", 4, "<f", float("nan")), "rms_epsilon is nan"),
    "eos": (after(b"eos_token_id", 4, "<I", 9999), "eos_token_id is 9999, but there are only 8"),
    "bos": (after(b"bos_token_id", 4, "<I", 2**32 - 1), "bos_token_id is 4294967295"),
    "axes": (after(b"output_norm.weight", 0, "<I", 1_000_000), "has 1000000 axes"),
    "no axes": (after(b"output_norm.weight", 0, "<I", 0), "has 0 axes"),
    "size of an axis": (after(b"output_norm.weight", 4, "<Q", HUGE), "after the end of the file"),
    "empty axis": (after(b"output_norm.weight", 4, "<Q", 0), "is not made of whole blocks"),
    "kind of a tensor": (after(b"output_norm.weight", 12, "<I", 999), "has unknown type 999"),
    "blocks of a tensor": (after(b"output_norm.weight", 12, "<I", 2), "is not made of whole blocks of 32"),
    "offset": (after(b"output_norm.weight", 16, "<Q", 3), "not a multiple of 32"),
    "overlap": (after(b"output_norm.weight", 16, "<Q", 0), "overlaps another tensor"),
    "far offset": (after(b"output_norm.weight", 16, "<Q", 2**62), "after the end of the file"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_header_that_cannot_be_is_refused(whole, tmp_path, name):
    change, said = CRAFTED[name]
    content = bytearray(whole)
    change(content)
    with pytest.raises(UserError, match=said) as error:
        read(content, tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/x.gguf: ")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "config.json").exists()


WRONG = {
    "merge without a space": ({"merges": ["t0"]}, "'t0': expected two tokens and a space"),
    "merge of unknown tokens": ({"merges": ["q z"]}, "'q' is not a token"),
    "merge to an unknown token": ({"merges": ["a b"]}, "'ab' is not a token"),
    "merge of three": ({"merges": ["t 0 a"]}, "is not a token"),
    "kinds": ({"kinds": [1, 1]}, "token_type does not have one number for each of the 8"),
    "repeated tokens": ({"tokens": ["t", "0", "t0", "a", "a", "c", "<s>", "</s>"]}, "'a' twice, with ids 3 and 4"),
    "empty token": ({"tokens": ["t", "0", "t0", "a", "", "c", "<s>", "</s>"]}, "an empty token"),
    "scaling": (
        {"more": [lambda writer: writer.add_string("llama.rope.scaling.type", "yarn")]},
        r"rope\.scaling\.type is yarn; only plain rotary",
    ),
    "template": (
        {"more": [lambda writer: writer.add_uint32("tokenizer.chat_template", 5)]},
        "chat_template is not a string",
    ),
    "alignment": ({"more": [lambda writer: writer.add_uint32("general.alignment", 24)]}, "power of two"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_tokenizer_that_cannot_be_is_refused(tmp_path, name):
    options, said = WRONG[name]
    write(tmp_path / "x.gguf", **options)
    with pytest.raises(UserError, match=said) as error:
        gguf_directory(tmp_path / "x.gguf", tmp_path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        gguf_directory(tmp_path / "nothing.gguf", tmp_path)
    for content in (b"", b"GGUF", b"GG"):
        with pytest.raises(UserError, match="GGUF"):
            read(content, tmp_path)


def test_the_other_byte_order_is_read(tmp_path):
    writer = gguf.GGUFWriter(str(tmp_path / "x.gguf"), "bert", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("a", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="architecture is 'bert'"):
        gguf_directory(tmp_path / "x.gguf", tmp_path)


@pytest.mark.parametrize("examples", [60, pytest.param(5000, marks=pytest.mark.slow)])
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(whole, tmp_path_factory, examples):
    place = tmp_path_factory.mktemp("fuzz")
    header = whole.index(b"output_norm.weight") + 400

    @settings(max_examples=examples, deadline=None)
    @given(st.one_of(changed_bytes(whole), changed_bytes(whole, within=header)))
    def check(content):
        told(lambda: read(content, place))

    check()

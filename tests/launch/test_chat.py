"""`t2t infer --chat`, with an imported model that has a template."""

import io
import json
import logging
import sys
from dataclasses import replace

import pytest
from safetensors.numpy import save_file

import t2t
from t2t.api.chat import chat_of
from t2t.decode import Greedy, generate_prompts
from t2t.launch import infer, parse
from t2t.launch.main import run
from t2t.models import gpt
from t2t.models.families import exportable
from tests.interop.cases import weight
from tests.interop.chat import CONVERSATIONS, TEMPLATES, say, write_directory

SIZES = {"vocab_size": 320, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 160, "n_inner": 32}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with theirs/ (and its template) and, imported from it, run/."""
    place = tmp_path_factory.mktemp("chat")
    write_directory("qwen", place / "theirs", kept_in="jinja")
    (place / "theirs" / "config.json").write_text(json.dumps({"model_type": "gpt2", "eos_token_id": 300, **SIZES}))
    config = gpt.gpt(num_layers=1, d_model=16, num_heads=2, d_ff=32, vocab_size=320, max_length=160)
    tensors = {t.name: weight(t.name, t.shape) for t in exportable(config)[2]}
    save_file(tensors, place / "theirs" / "model.safetensors")
    assert run(["import", str(place / "theirs"), "--dir", str(place / "run")]) == 0
    return place


@pytest.fixture(scope="module")
def loaded(place):
    return t2t.load(place / "run")


def call(place, *words):
    return parse.call(infer.command, [str(place / "run"), "--chat", "--max-length", "6", *words], prog="t2t infer")


def expected(loaded, messages):
    talk = chat_of(loaded)
    ids = talk.vocabulary.encode(talk.template.render(messages))
    return generate_prompts(loaded.model, loaded.parameters, talk.vocabulary, [ids], Greedy(), length=6)[0][0]


def test_the_end_of_a_turn_ends_an_answer(loaded):
    talk = chat_of(loaded)
    assert loaded.vocabulary.end_ids == (300,)  # <|endoftext|>, as config.json has it
    assert talk.vocabulary.end_ids == (300, 302)  # <|im_end|>, as the template has it
    prompt = talk.prompt(say("user: a"))
    ids = loaded.vocabulary.encode(loaded.chat(say("user: a"), max_length=6))
    assert len(ids) == 6
    stopping = replace(talk, vocabulary=replace(talk.vocabulary, ends=(ids[2],)))
    ((found,),) = stopping.replies(loaded, [prompt], max_length=6)
    assert found.ended
    assert loaded.vocabulary.encode(found.text) == ids[: ids.index(ids[2])]


def test_a_text_is_one_message_of_the_user(place, loaded, capsys):
    call(place, "--text", "the quick", "--text", "b")
    wanted = [expected(loaded, say(f"user: {text}")).text for text in ("the quick", "b")]
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in wanted)
    assert loaded.chat(say("user: b"), max_length=6) == wanted[1]


def test_a_file_holds_conversations(place, loaded, tmp_path):
    asked = [CONVERSATIONS[name] for name in ("system", "several", "one")]
    rows = [{"messages": messages, "inputs": i} for i, messages in enumerate(asked)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call(place, "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl"))
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{key: row[key] for key in ("messages", "inputs")} for row in found] == rows
    assert [row["prediction"] for row in found] == [expected(loaded, messages).text for messages in asked]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_conversation_in_the_terminal_has_its_history(place, loaded, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal(f"a\n{'long ' * 200}\nb\n\nnot read\n"))
    call(place)
    out, err = capsys.readouterr()
    first = expected(loaded, say("user: a"))
    second = expected(loaded, [*say("user: a"), {"role": "assistant", "content": first.text}, *say("user: b")])
    assert out == f"> {first.text}\n> > {second.text}\n> "
    assert err.count("error: the conversation") == 1  # the long message, which is taken back
    assert err.count("cut off") == 2 - first.ended - second.ended


def test_special_tokens_of_the_user_are_named(place, loaded, capsys, caplog):
    call(place, "--text", "plain", "--text", "a<|im_end|>")
    assert "note: text 2 (--text): <|im_end|> in a message is read as a special token" in capsys.readouterr().err
    with caplog.at_level(logging.WARNING):
        loaded.chat(say("user: <|im_end|>"), max_length=1)
    assert "<|im_end|> in a message is read as a special token" in caplog.text


def test_the_template_is_exported_as_it_came(place, loaded, tmp_path):
    out = loaded.export("huggingface", tmp_path / "out")
    assert (out / "chat_template.jinja").read_bytes() == (place / "theirs" / "chat_template.jinja").read_bytes()
    assert "chat_template" not in json.loads((out / "tokenizer_config.json").read_text())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--text", "a", "--too-long", "truncate"], "--too-long truncate would cut"),
        (["--text", "a", "--continue-text"], "--continue-text True: this option has no effect with --chat"),
        (["--text", "a", "--embed", "mean"], "--embed mean: this option has no effect with --chat"),
        (["--text", "a", "--second", "b"], "has no effect with --chat"),
        (["--text", "a", "--no-chat", "--chat-template", "x"], "--chat-template x: this option is for --chat"),
        (["--text", "a", "--chat-template", "nowhere"], r"nowhere \(--chat-template\): no such file"),
        ([], "no terminal to talk in"),
        (["--output", "x"], "a conversation in the terminal is not written to a file"),
    ],
)
def test_mistakes_are_one_line(place, words, said):
    with pytest.raises(t2t.UserError, match=said):
        call(place, *words)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"message": []}', r"in\.jsonl:2: no field 'messages'\."),
        ('{"messages": "a"}', r"in\.jsonl:2 is str\. Nearest: "),
        ('{"messages": [{"role": "user"}, 1]}', r"in\.jsonl:2\[1\] is int\. Nearest: "),
        (
            '{"messages": [{"role": "user", "content": 5}]}',
            r"in\.jsonl:2: the chat template of .*chat_template\.jinja says: ",
        ),
    ],
)
def test_bad_conversations_are_named(place, tmp_path, line, said):
    (tmp_path / "in.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n' + line)
    with pytest.raises(t2t.UserError, match=said):
        call(place, "--input", str(tmp_path / "in.jsonl"))


def test_without_a_template_the_error_says_how_to_give_one(place, tmp_path, capsys):
    write_directory("chatml", tmp_path / "theirs")
    settings = json.loads((tmp_path / "theirs" / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(settings))
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "theirs" / name).write_bytes((place / "theirs" / name).read_bytes())
    bare = t2t.load(tmp_path / "theirs", dir=tmp_path / "run")
    with pytest.raises(t2t.UserError, match=r"run has no chat template\. Give one with --chat-template FILE"):
        bare.chat(say("user: a"))
    (tmp_path / "mine.jinja").write_text(TEMPLATES["chatml"][0])
    given = chat_of(bare, str(tmp_path / "mine.jinja"))
    assert given.template.tokens["eos_token"] == "<|endoftext|>"
    assert isinstance(bare.chat(say("user: a"), template=tmp_path / "mine.jinja", max_length=2), str)

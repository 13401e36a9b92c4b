"""Tasks of conversations: what is read from files, which tokens count, and what is refused."""

import io
import json
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from rich.console import Console

import t2t
from t2t import tasks
from t2t.api.chat import chat_of
from t2t.data.config import Data
from t2t.data.pipeline import batches, evaluation_batches, task_vocabulary
from t2t.errors import UserError
from t2t.export.chat_defaults import PLAIN, encode
from t2t.launch import show_tasks
from t2t.models import gpt, llama
from t2t.objectives import CrossEntropy
from t2t.tasks import sources
from t2t.train.evaluation import Evaluation, Evaluator
from t2t.vocabularies import Bytes, Characters, Tokenizer
from tests.interop.chat import SPECIAL, say
from tests.models.tiny import SIZES, quick_jit
from tests.test_tokenizer import byte_level

TALK = say("system: s", "user: Hi é", "assistant: Hello!", "user: Bye", "assistant: See you 🙂")
SHORT = say("user: one", "assistant: two")
WHOLE = (
    "<|system|>\ns</s>\n<|user|>\nHi é</s>\n<|assistant|>\nHello!</s>\n<|user|>\nBye</s>\n<|assistant|>\nSee you 🙂</s>"
)
LAST = "See you 🙂</s>"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("T2T_CACHE", str(tmp_path / "cache"))


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def register(tmp_path, *talks, name="chat", **options):
    file = write(tmp_path / f"{name}.jsonl", [{"messages": talk} for talk in talks])
    options.setdefault("source", file)
    return tasks.add_chat(name, **options, replace=True)


def read(kind="decoder", name="chat", **sizes):
    """Return the batch and the raw examples of all conversations."""
    data = Data(task=name, **{"inputs_length": 150, "targets_length": 50, **sizes})
    found = list(evaluation_batches(data, kind, 8))
    assert len(found) == 1
    return found[0]


def text_of(ids):
    names = {1: "</s>"}
    return "".join(names[i] if i in names else bytes([i - 3]).decode("latin-1") for i in ids)


def learned(batch, row=0):
    """Return the texts that count, with * between them."""
    weights = np.asarray(batch.weights)[row]
    ids = [int(i) if weight else -1 for i, weight in zip(batch.targets[row], weights, strict=True)]
    runs = re.split("(?:-1,)+", "".join(f"{i}," for i in ids))
    texts = [text_of(map(int, run.rstrip(",").split(","))) for run in runs if run]
    return [text.encode("latin-1").decode("utf-8") for text in texts]


def test_a_decoder_learns_all_answers_with_their_ends_and_nothing_else(tmp_path):
    register(tmp_path, TALK, SHORT)
    batch, raws = read()
    assert learned(batch) == ["Hello!</s>", LAST]
    assert learned(batch, 1) == ["two</s>"]
    ids = encode(WHOLE, Bytes())[0]
    size = len(ids) - 1
    # The first token is the start: it is given, as in generation, and not predicted.
    assert batch.decoder.ids[0, :size].tolist() == ids[:-1]
    assert batch.targets[0, :size].tolist() == ids[1:]
    assert batch.decoder.prefix is None
    assert not np.asarray(batch.decoder.segments)[0, size:].any()
    assert raws[0]["inputs_pretokenized"].decode() == WHOLE.removesuffix(LAST)
    assert raws[0]["targets_pretokenized"].decode() == "See you 🙂"


def test_packed_conversations_do_not_see_each_other(tmp_path):
    register(tmp_path, TALK, SHORT, SHORT[:1] + say("assistant: a longer answer"))
    alone, _ = read(inputs_length=120, targets_length=30)
    data = Data(task="chat", inputs_length=200, targets_length=56, batch_size=1, shards=1, shuffle_buffer=0)
    packed = next(iter(batches(replace(data, pack=True), "decoder", repeat=False)))
    assert np.asarray(packed.decoder.segments).max() == 3
    model = gpt.gpt(**{**SIZES, "vocab_size": 384, "max_length": 256, "num_layers": 1}).build()
    params = quick_jit(model.init)(jax.random.key(0))
    loss = quick_jit(lambda batch: CrossEntropy().loss(model, params, batch))
    first, second = (loss(batch) for batch in (alone, packed))
    assert float(first.weight) == float(second.weight) > 30
    np.testing.assert_allclose(float(first.loss), float(second.loss), rtol=1e-5)


def test_an_encoder_decoder_gets_the_prompt_and_the_last_answer(tmp_path):
    register(tmp_path, TALK, turns="each")
    batch, raws = read("encoder_decoder")
    prompts = [WHOLE[: WHOLE.index("Hello!")], WHOLE.removesuffix(LAST)]
    assert [raw["inputs_pretokenized"].decode() for raw in raws] == prompts
    for row, (prompt, answer) in enumerate(zip(prompts, ("Hello!</s>", LAST), strict=True)):
        ids = batch.encoder.ids[row]
        assert ids[ids > 0].tolist() == encode(prompt, Bytes())[0]
        assert learned(batch, row) == [answer]
    found, _ = read("decoder")
    assert [learned(found, row) for row in range(2)] == [["Hello!</s>"], [LAST]]
    with pytest.raises(UserError, match="encoder"):
        read("encoder")


def test_the_formats_give_the_same_conversation(tmp_path):
    named = {"system": "system", "user": "human", "assistant": "gpt"}
    shared = [{"from": named[message["role"]], "value": message["content"]} for message in TALK]
    seen = []
    for row in (
        {"messages": TALK},
        {"conversations": shared, "id": 3},
        {"instruction": "Hi", "input": "é", "output": "Hello!"},
        {"instruction": "Hi", "output": "Hello!"},
    ):
        tasks.add_chat("chat", source=write(tmp_path / "a.jsonl", [row]), replace=True)
        seen.append(read()[1][0])
    assert seen[0]["inputs"].tolist() == seen[1]["inputs"].tolist()
    asked = [raw["inputs_pretokenized"].decode() for raw in seen[2:]]
    assert asked == [f"<|user|>\n{text}</s>\n<|assistant|>\n" for text in ("Hi\n\né", "Hi")]


def test_an_answer_of_weight_0_is_not_learned(tmp_path):
    silent = [{**TALK[2], "weight": 0}, {**TALK[4], "weight": 0}]
    register(tmp_path, [*TALK[:2], silent[0], *TALK[3:]], [*TALK[:4], silent[1]])
    batch, raws = read()
    assert [learned(batch, row) for row in range(2)] == [[LAST], ["Hello!</s>"]]
    assert raws[1]["inputs_pretokenized"].decode().endswith("Hi é</s>\n<|assistant|>\n")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": []}, "'messages' is .*, expected a list of messages"),
        ({"messages": say("user: a")}, "no turn of the assistant"),
        ({"messages": [*say("user: a"), {"role": "assistant", "content": "b", "weight": 0}]}, "no turn of the assist"),
        (
            {"messages": say("user: a", "assistent: b")},
            "message 2: role is .assistent., expected one of.*Nearest: assistant",
        ),
        ({"messages": say("user: a", "assistant:  ")}, "message 2: this answer is empty"),
        ({"messages": [{"role": "user", "content": 3}]}, "message 1: content is 3, expected text"),
        ({"instruction": "a", "output": "b"}, "has the format alpaca, but the file has the format messages"),
        ({"text": "a"}, "has no 'messages'"),
    ],
)
def test_a_bad_conversation_is_named_with_its_line(tmp_path, row, said):
    file = write(tmp_path / "a.jsonl", [{"messages": SHORT}, row])
    tasks.add_chat("chat", source=file, replace=True)
    with pytest.raises(UserError, match=rf"^{re.escape(str(file))}:2: .*{said}"):
        read()
    task = tasks.add_chat("chat", source=sources.chat(file, on_bad="skip"), replace=True)
    assert len(read()[1]) == 1
    assert task.source.skipped() == 1


NO_END = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
HIDES = "{% for m in messages %}[{{ m.role }}]{{ m.content | replace('See', '') }}{{ eos_token }}{% endfor %}"
REWRITES = "{% for m in messages %}[{{ m.role }}]{{ m.content if loop.last or m.role == 'user' else '...' }}{{ eos_token }}{% endfor %}"
ENDS_ONCE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if loop.index < 3 %}{{ eos_token }}{% endif %}{% endfor %}"
)
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + NO_END.replace(
    "\n", "{{ eos_token }}"
)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (HIDES, r"a\.jsonl:2: .*does not write this answer as it is"),
        (REWRITES, r"a\.jsonl:2: .*writes message 2 in another way once the conversation goes on.*turns='each'"),
        (ENDS_ONCE, r"a\.jsonl:2: .*writes no end of turn after this answer"),
        (REFUSES, r"a\.jsonl:2: .*no system"),
    ],
)
def test_a_template_that_would_teach_something_else_is_refused(tmp_path, template, said):
    file = write(tmp_path / "a.jsonl", [{"messages": say("user: A", "assistant: B")}, {"messages": TALK}])
    tasks.add_chat("chat", source=file, template=template, replace=True)
    with pytest.raises(UserError, match=said):
        read()
    tasks.add_chat("chat", source=sources.chat(file, on_bad="skip"), template=template, replace=True)
    assert len(read()[1]) == 1


def test_a_template_without_an_end_of_turn_is_refused_before_anything_is_read(tmp_path):
    register(tmp_path, SHORT, template=NO_END)
    with pytest.raises(UserError, match=r"no special token of the vocabulary after an answer.*eos_token"):
        task_vocabulary(Data(task="chat"))
    register(tmp_path, SHORT, template="{% for m in messages %}{{ m.content | upper }}{{ eos_token }}{% endfor %}")
    with pytest.raises(UserError, match="does not write this answer as it is: 'reply'"):
        task_vocabulary(Data(task="chat"))
    register(tmp_path, SHORT, vocabulary=Characters.of("ab"))
    with pytest.raises(UserError, match="Characters has no special tokens in texts"):
        task_vocabulary(Data(task="chat"))


def test_earlier_turns_that_a_template_rewrites_are_learned_one_by_one(tmp_path):
    register(tmp_path, TALK, template=REWRITES, turns="each")
    batch, _ = read()
    # The template has no prompt of generation, so the role is predicted, too.
    assert [learned(batch, row) for row in range(2)] == [["[assistant]Hello!</s>"], [f"[assistant]{LAST}"]]


def test_what_is_too_long_is_dropped_or_cut_between_turns_and_counted(tmp_path, caplog):
    sizes = {"inputs_length": 70, "targets_length": 20}
    register(tmp_path, TALK, SHORT)
    assert [raw["targets_pretokenized"] for raw in read(**sizes)[1]] == [b"two"]
    # Conversations are encoded in parallel, so the second one may have been read too.
    assert re.search(
        r"task chat: 1 of [12] conversations so far: too long, dropped \(the prompt of the last answer has 8",
        caplog.text,
    )
    register(tmp_path, TALK, SHORT, too_long="cut")
    batch, _ = read(**sizes)
    assert [learned(batch, row) for row in range(2)] == [["Hello!</s>"], ["two</s>"]]
    register(tmp_path, TALK, too_long="stop")
    with pytest.raises(UserError, match=r"chat\.jsonl:1: .*inputs_length=70 \(too_long='stop'\)"):
        read(**sizes)


def test_the_vocabulary_and_the_template_decide_where_a_turn_ends(tmp_path):
    byte_level(tmp_path / "tokenizer.json", special=SPECIAL)
    vocabulary = Tokenizer(path=str(tmp_path / "tokenizer.json"), eos="<|endoftext|>")
    register(tmp_path, SHORT, vocabulary=vocabulary)
    found = task_vocabulary(Data(task="chat"))
    end = found.special_tokens()["<|im_end|>"]
    assert found.end_ids == (found.eos_id, end)
    assert task_vocabulary(Data(task="chat", vocabulary=Bytes())) == Bytes()
    batch, raws = read()
    assert raws[0]["inputs_pretokenized"] == b"<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n"
    assert batch.targets[0][np.asarray(batch.weights)[0] > 0].tolist() == [*found.encode("two"), end]
    # A mixture has one template, and so has a run.
    register(tmp_path, SHORT, name="other", template=HIDES, vocabulary=vocabulary)
    tasks.mix("chats", {"chat": 1, "other": 1}, replace=True)
    with pytest.raises(UserError, match="'chat' and 'other' have different chat templates"):
        task_vocabulary(Data(task="chats"))


@pytest.mark.slow
def test_evaluation_generates_the_last_answer_from_its_prompt(tmp_path):
    register(tmp_path, TALK, SHORT)
    model = llama.llama(**{**SIZES, "vocab_size": 384, "max_length": 256, "num_layers": 1}).build()
    data = Data(task="chat", inputs_length=150, targets_length=6)
    evaluation = Evaluation(tasks=("chat",), split="train", batch_size=2)
    (found,) = Evaluator(model, evaluation, data).evaluate(quick_jit(model.init)(jax.random.key(0)))
    assert found.predictions[0]["inputs"] == WHOLE.removesuffix(LAST)
    assert [row["targets"] for row in found.predictions] == ["See you 🙂", "two"]
    assert all("prediction" in row for row in found.predictions)
    assert found.metrics["bits_per_byte"] > 1


@pytest.mark.parametrize("colour", [False, True])
def test_the_tokens_that_count_are_shown(tmp_path, monkeypatch, colour):
    register(tmp_path, TALK)
    out = io.StringIO()
    monkeypatch.delenv("NO_COLOR", raising=False)
    console = Console(file=out, force_terminal=colour, color_system="standard" if colour else None, width=120)
    monkeypatch.setattr(show_tasks, "console", lambda: console)
    show_tasks.tasks("chat")
    text = out.getvalue()
    assert "20 count in the loss" in text
    if colour:
        assert re.search(r"\x1b\[[0-9;]*43m\s*Hello!</s>\x1b\[0m", text)
        assert "[[" not in text
    else:
        assert "    [[Hello!</s>]]\n" in text
        assert f"    [[{LAST}]]\n" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"turns": "last"}, "turns='last' of task 'chat'"),
        ({"too_long": "trim"}, "too_long='trim' of task 'chat'"),
        ({"template": "no/such.jinja"}, "template 'no/such.jinja': no such file"),
        ({"template": "{% if %}"}, "the chat template, line 1"),
    ],
)
def test_a_wrong_option_is_refused_at_registration(tmp_path, options, said):
    def registered():
        register(tmp_path, SHORT, **options)
        return task_vocabulary(Data(task="chat"))

    with pytest.raises(UserError, match=re.escape(said)):
        registered()


def test_a_source_of_another_format_is_refused_by_name():
    with pytest.raises(UserError, match="format='chatml' of a chat source: unknown format"):
        sources.chat("a.jsonl", format="chatml")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that learned in a chat to repeat the first word of a message."""
    place = tmp_path_factory.mktemp("chat")
    words = ["ant", "bat", "cow", "dog", "eel", "fox"]
    asked = [f"{first} {second}" for first in words for second in words]
    talks = [{"messages": say(f"user: {text}", f"assistant: {text[:3]}")} for text in asked * 4]
    tasks.add_chat("first_word", source=write(place / "a.jsonl", talks), replace=True)
    options = {"model.decoder.num_layers": 2, "optimizer.schedule.peak": 3e-3, "optimizer.schedule.warmup": 20}
    options |= {"data.inputs_length": 48, "data.targets_length": 16, "evaluation.split": None, "data.shards": 2}
    options |= {"optimizer.schedule.steps": 120}
    return t2t.train("gpt:quickstart", dir=place / "run", task="first_word", steps=120, progress=False, options=options)


@pytest.mark.slow
def test_a_trained_model_stops_by_itself_and_its_run_has_the_template(trained, tmp_path):
    talk = chat_of(trained)  # without any option
    assert talk.template.text == PLAIN
    prompts = [talk.prompt(say(f"user: {text}")) for text in ("fox ant", "cow dog", "bat bat")]
    answers = [found for (found,) in talk.replies(trained, prompts, max_length=16)]
    assert [(answer.text, answer.ended) for answer in answers] == [("fox", True), ("cow", True), ("bat", True)]
    out = trained.export("huggingface", tmp_path / "out")
    assert (out / "chat_template.jinja").read_text() == PLAIN
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == 1
    back = t2t.load(out, dir=tmp_path / "back")
    assert back.chat(say("user: fox ant"), max_length=16) == "fox"


@pytest.mark.slow
def test_a_run_has_one_template(trained, tmp_path):
    file = write(tmp_path / "a.jsonl", [{"messages": say("user: fox", "assistant: fox")}] * 8)
    tasks.add_chat("first_word", source=file, template="{{ '' }}" + PLAIN, replace=True)
    with pytest.raises(UserError, match=r"holds a run with another configuration.*chat_template"):
        t2t.train(trained, steps=130, progress=False)
    # A run that starts from it knows its template.
    own = write(tmp_path / "mine.jinja", [])
    own.write_text(PLAIN.replace("<|", "<<"))
    tasks.add_chat("first_word", source=file, template=str(own), replace=True)
    other = t2t.train(trained, dir=tmp_path / "other", steps=1, progress=False)
    assert chat_of(other).template.text == own.read_text()
    tasks.add_chat("first_word", source=file, replace=True)
    with pytest.raises(
        UserError, match=r"has the default chat template, but .*other.* has its own.*add_chat\(template="
    ):
        t2t.train(other, dir=tmp_path / "third", steps=1, progress=False)
    tasks.add_chat("first_word", source=file, template=str(tmp_path / "other"), replace=True)
    third = t2t.train(other, dir=tmp_path / "third", steps=1, progress=False)
    assert chat_of(third).template.text == own.read_text()

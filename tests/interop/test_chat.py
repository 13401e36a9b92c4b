"""Prompts of chat templates are those that `transformers` made, in text and in ids."""

import json
import re

import pytest

from t2t.errors import UserError
from t2t.export.chat_template import template_in
from t2t.export.conversations import ConversationEncoder
from t2t.export.tokenizer_files import read_vocabulary
from tests.interop.chat import CONVERSATIONS, FILE, LEARNED, MARKED, TEMPLATES, write_directory, write_tokenizer

FOUND = json.loads(FILE.read_text(encoding="utf-8"))


def test_there_is_an_answer_for_each_conversation():
    assert len(FOUND) == 2 * len(TEMPLATES) * len(CONVERSATIONS) + len(MARKED) * len(LEARNED)


@pytest.mark.parametrize("kept_in", ["text", "list", "jinja"])
@pytest.mark.parametrize("style", TEMPLATES)
def test_texts_and_ids_are_those_of_transformers(style, kept_in, tmp_path):
    write_directory(style, tmp_path, kept_in=kept_in)
    template = template_in(tmp_path)
    vocabulary = read_vocabulary(tmp_path, {"model_type": "llama"}, scratch=tmp_path)
    refused = 0
    for name, messages in CONVERSATIONS.items():
        for end, prompt in (("prompt", True), ("whole", False)):
            wanted = FOUND[f"{style}, {name}, {end}"]
            if "error" in wanted:
                with pytest.raises(UserError) as error:
                    template.render(messages, add_generation_prompt=prompt, name="file:3")
                assert str(error.value).startswith("file:3: the chat template of ")
                assert str(error.value).endswith(f"says: {wanted['error']}")
                refused += 1
                continue
            text = template.render(messages, add_generation_prompt=prompt)
            assert text == wanted["text"]
            assert vocabulary.encode(text) == wanted["ids"]
    assert refused == {"gemma": 8, "mistral": 2}.get(style, 0)


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("style", MARKED)
def test_the_tokens_that_count_are_those_that_transformers_marks(style, marked, tmp_path):
    template, tokens = TEMPLATES[style]
    template = MARKED[style] if marked else re.sub("{%- (end)?generation %}", "", template)
    write_tokenizer(template, tokens, tmp_path)
    vocabulary = read_vocabulary(tmp_path, {"model_type": "llama"}, scratch=tmp_path)
    encoder = ConversationEncoder(template_in(tmp_path), vocabulary)
    assert template_in(tmp_path).marks_answers == marked
    for name in LEARNED:
        messages, wanted = CONVERSATIONS[name], FOUND[f"{style}, {name}, learned"]
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        found = encoder.encode(messages, turns)
        size = len(found.ids)
        assert found.ids == wanted["ids"][:size]
        assert found.weights == wanted["mask"][:size]
        assert not any(wanted["mask"][size:])
        assert sum(found.weights[i] for i, token in enumerate(found.ids) if token == encoder.end) == len(turns)
        assert found.answer.strip() == messages[-1]["content"].strip()

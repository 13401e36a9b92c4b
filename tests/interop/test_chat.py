"""Prompts of chat templates are those that `transformers` made, in text and in ids."""

import json

import pytest

from t2t.errors import UserError
from t2t.export.chat_template import template_in
from t2t.export.tokenizer_files import read_vocabulary
from tests.interop.chat import CONVERSATIONS, FILE, TEMPLATES, write_directory

FOUND = json.loads(FILE.read_text(encoding="utf-8"))


def test_there_is_an_answer_for_each_conversation():
    assert len(FOUND) == 2 * len(TEMPLATES) * len(CONVERSATIONS)


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

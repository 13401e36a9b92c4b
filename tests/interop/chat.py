"""Chat templates in the styles of published ones, and what `transformers` makes of them.

    python -m tests.interop.chat

writes chat.json: the texts and ids of `apply_chat_template`. Run it in the root of the repository. It needs `transformers`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.test_tokenizer import byte_level

FILE = Path(__file__).with_name("chat.json")
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]", "<bos>", "<start_of_turn>", "<end_of_turn>",
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|user|>", "<|assistant|>",
)  # fmt: skip

CHATML = """\
{% for message in messages %}
{% if loop.first and message.role != 'system' %}
<|im_start|>system
You are helpful.<|im_end|>
{% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
LLAMA3 = """\
{{- bos_token }}
{%- set date = strftime_now("a day") %}
{%- if messages[0].role == "system" %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " + date + "\\n\\n" + system + eos_token }}
{%- for message in messages %}
    {{- "<|start_header_id|>" + message.role + "<|end_header_id|>\\n\\n" }}
    {%- if message.role == "assistant" %}
        {%- generation %}{{- message.content | trim + eos_token }}{%- endgeneration %}
    {%- else %}{{- message.content | trim + eos_token }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""
QWEN = """\
{%- if tools %}{{- "# Tools\\n" }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{%- endif %}
{%- set seen = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- set index = messages | length - 1 - loop.index0 %}
    {%- if message.role == "user" %}{%- set seen.last = index %}{%- break %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else message.content | map(attribute="text") | join("") %}
    {%- if message.role == "assistant" and loop.index0 > seen.last and message.reasoning_content %}
        {%- set content = "<think>\\n" + message.reasoning_content.strip("\\n") + "\\n</think>\\n\\n" + content %}
    {%- elif message.role == "system" and message.settings %}
        {%- set content = content + "\\n" + message.settings | tojson(indent=2) %}
    {%- endif %}
    {{- "<|im_start|>" + message.role + "\\n" + content + "<|im_end|>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\\n" }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- "<think>\\n\\n</think>\\n\\n" }}{%- endif %}
{%- endif %}"""
GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate: user, assistant, user, ...') }}
{% endif %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""
MISTRAL = """\
{%- set ns = namespace(system="") -%}
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message.role == "system" -%}{%- set ns.system = message.content + "\\n\\n" -%}{%- continue -%}{%- endif -%}
    {%- if message.role == "user" -%}
        {{- "[INST] " + ns.system + message.content + " [/INST]" -}}{%- set ns.system = "" -%}
    {%- elif message.role == "assistant" -%}
        {{- " " + message.content + eos_token -}}
    {%- else -%}
        {{- raise_exception("Only user, assistant and system roles: not " + message.role) -}}
    {%- endif -%}
{%- endfor -%}
"""
ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}
{% else %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
TEMPLATES: dict[str, tuple[str, dict[str, Any]]] = {
    "chatml": (CHATML, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}),
    "llama3": (
        LLAMA3,
        {
            "bos_token": "<|begin_of_text|>",
            "eos_token": {"__type": "AddedToken", "content": "<|eot_id|>", "special": True},
        },
    ),
    "qwen": (QWEN, {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}),
    "gemma": (GEMMA, {"bos_token": "<bos>", "eos_token": "<end_of_turn>"}),
    "mistral": (MISTRAL, {"bos_token": "<s>", "eos_token": "</s>"}),
    "zephyr": (ZEPHYR, {"bos_token": "<s>", "eos_token": "</s>"}),
}
"""Style -> (template, special tokens of tokenizer_config.json)."""
_SAYS = "{% generation %}", "{% endgeneration %}"
MARKED = {
    "chatml": CHATML.replace(
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}",
        "{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}"
        + "{{ message['content'] + '<|im_end|>' }}".join(_SAYS)
        + "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}",
    ),
    "llama3": LLAMA3,
    "gemma": GEMMA.replace(
        "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}",
        "{{ '<start_of_turn>' + role + '\\n' }}{% if role == 'model' %}"
        + "{{ message['content'] | trim + '<end_of_turn>' }}".join(_SAYS)
        + "{% else %}{{ message['content'] | trim + '<end_of_turn>' }}{% endif %}{{ '\\n' }}",
    ),
    "mistral": MISTRAL.replace(
        '{{- " " + message.content + eos_token -}}',
        '{{- " " + message.content + eos_token -}}'.join(("{%- generation -%}", "{%- endgeneration -%}")),
    ),
    "zephyr": ZEPHYR.replace(
        "{{ '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}",
        "{{ '<|assistant|>\\n' }}" + "{{ message['content'] + eos_token }}".join(_SAYS) + "{{ '\\n' }}",
    ),
}
"""The same templates with marks around the model's own words."""


def say(*turns: str) -> list[dict[str, Any]]:
    """Return the messages of "role: content" lines."""
    return [{"role": turn.partition(": ")[0], "content": turn.partition(": ")[2]} for turn in turns]


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": say("user: the quick brown fox?"),
    "several": say("user: a 1", "assistant:  naïve <b>&amp;</b> \n", "user: lazy 🙂"),
    "system": say("system: Be brief. ", "user: {{ 7 * 7 }}", "assistant: no", "user: don't"),
    "answered": say("user: a", "assistant: b"),
    "special": say("user: end<|im_end|>\n<|im_start|>system\n</s>[INST]<end_of_turn>"),
    "fields": [
        {"role": "system", "content": "s", "settings": {"é": [1, "<&>"], "b": None}, "name": None},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a", "reasoning": "\nwhy\n"},
    ],
    "two answers": say("user: a 1", "assistant: naïve <b> 🙂", "user: lazy", "assistant: the quick"),
    "wrong order": say("assistant: a", "user: b"),
    "another role": say("tool: a"),
}
"""Name -> messages. A template may refuse some."""
LEARNED = ("answered", "two answers")
"""The conversations that end with an answer, and that every template takes."""


def write_directory(style: str, directory: Path, *, kept_in: str = "text") -> None:
    """Write a tokenizer with the template of a style. kept_in: "text" or "list" (of tokenizer_config.json), or "jinja" (a file)."""
    write_tokenizer(TEMPLATES[style][0], TEMPLATES[style][1], directory, kept_in=kept_in)


def write_tokenizer(template: str, tokens: dict[str, Any], directory: Path, *, kept_in: str = "text") -> None:
    """Write a tokenizer with a template and special tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    byte_level(directory / "tokenizer.json", special=SPECIAL)
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **tokens}
    if kept_in == "jinja":
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    elif kept_in == "list":
        named = [{"name": "tool_use", "template": "other"}, {"name": "default", "template": template}]
        settings["chat_template"] = named
    else:
        settings["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def main() -> None:
    """Write the texts and ids that `transformers` makes, or its error."""
    import transformers

    found: dict[str, Any] = {}
    for number, style in enumerate(TEMPLATES):
        with tempfile.TemporaryDirectory() as folder:
            write_directory(style, Path(folder), kept_in=("text", "list", "jinja")[number % 3])
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        for name, messages in CONVERSATIONS.items():
            for prompt in (True, False):
                try:
                    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
                    ids = tokenizer.apply_chat_template(messages, return_dict=False, add_generation_prompt=prompt)
                    answer = {"text": text, "ids": ids}
                except Exception as error:  # the template's own
                    answer = {"error": str(error)}
                found[f"{style}, {name}, {'prompt' if prompt else 'whole'}"] = answer
    for style, marked in MARKED.items():
        with tempfile.TemporaryDirectory() as folder:
            write_tokenizer(marked, TEMPLATES[style][1], Path(folder))
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        for name in LEARNED:
            answer = tokenizer.apply_chat_template(
                CONVERSATIONS[name], return_dict=True, return_assistant_tokens_mask=True
            )
            found[f"{style}, {name}, learned"] = {
                "ids": answer["input_ids"],
                "mask": answer["assistant_masks"],
            }
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
    FILE.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

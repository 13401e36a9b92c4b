"""Chat templates: where they are read, what they cannot do, and what is refused in one line."""

import json

import pytest

from t2t.errors import UserError
from t2t.export.chat_template import ChatTemplate, template_file, template_in

ASKED = [{"role": "user", "content": "hi"}]
JINJA = "{{ bos_token }}{{ messages[0].content }}"


def settings(directory, **values):
    (directory / "tokenizer_config.json").write_text(json.dumps(values))
    return directory


def test_a_file_of_its_own_comes_first(tmp_path):
    assert template_in(tmp_path / "nowhere") is None
    assert template_in(settings(tmp_path, bos_token="<s>")) is None
    settings(tmp_path, bos_token="<s>", chat_template=f"old {JINJA}")
    assert template_in(tmp_path).render(ASKED) == "old <s>hi"
    (tmp_path / "chat_template.jinja").write_text(JINJA)
    assert template_in(tmp_path).render(ASKED) == "<s>hi"


def test_a_file_that_the_user_gives(tmp_path):
    (tmp_path / "mine.jinja").write_text(JINJA)
    assert template_file(tmp_path / "mine.jinja", {"bos_token": "<b>"}).render(ASKED) == "<b>hi"
    settings(tmp_path, bos_token="<s>", chat_template=JINJA)
    assert template_file(tmp_path / "tokenizer_config.json", {"bos_token": "<b>"}).render(ASKED) == "<s>hi"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"chat_template": 5}, r"tokenizer_config\.json: chat_template: 5 is not a string"),
        ({"chat_template": [{"name": "rag", "template": ""}]}, r"no template called 'default', only rag"),
        ({"chat_template": [{"name": "default"}]}, r"chat_template: template: null is not a string"),
        ({"chat_template": "a\n{% if %}"}, r"tokenizer_config\.json: the chat template, line 2: "),
    ],
)
def test_damaged_templates_are_one_line(tmp_path, values, said):
    with pytest.raises(UserError, match=said) as error:
        template_in(settings(tmp_path, **values))
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    for name, content, said in (
        ("a.jinja", b"\xff", "not UTF-8 text"),
        ("a.json", b"{}", r"a\.json \(--chat-template\) has no chat_template\. Nearest: .*chat_template\.jinja"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            template_file(tmp_path / name, {})
    with pytest.raises(UserError, match=r"b\.jinja \(--chat-template\): no such file"):
        template_file(tmp_path / "b.jinja", {})


def test_a_link_out_of_the_directory_is_not_read(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="points outside"):
        template_in(tmp_path / "model")


@pytest.mark.parametrize(
    "text",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% for i in range(10000000) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{{ '%s' | attr('format') | attr('__globals__') }}{{ ('a' | attr('__class__')).mro() }}",
    ],
)
def test_a_template_stays_in_its_sandbox(text):
    asked = [dict(ASKED[0])]
    with pytest.raises(UserError, match=r"messages: the chat template of here says: "):
        ChatTemplate(text=text, where="here").render(asked)
    assert asked == ASKED


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], r'messages is empty\. Nearest: \[\{"role": "user"'),
        ("hi", r"messages is str\. Nearest: "),
        (["hi"], r"messages\[0\] is str\. Nearest: "),
        ([{"content": "a"}], r"messages\[0\] has no role\. Nearest: system, user, assistant\."),
        ([*ASKED, {"role": 1}], r"messages\[1\] has no role"),
        ([{"role": "user", "content": b"a"}], r"messages\[0\]\['content'\] is bytes, which a template cannot read"),
        ([{"role": "user", "content": "\ud800"}], r"messages\[0\]\['content'\] is not valid text"),
    ],
)
def test_what_is_no_conversation_is_refused(messages, said):
    with pytest.raises(UserError, match=said):
        ChatTemplate(text=JINJA, where="here").render(messages)

import pytest

from t2t.errors import UserError
from t2t.tasks import promptsource
from t2t.tasks.templates import Rendered, Template, slug

# In promptsource's own form, with all that its files have.
FILE = """
dataset: super_glue
subset: copa
templates:
  150789fe-e309-47a1-82c9-0a4dc2c6b12b: !Template
    answer_choices: '{{choice1}} ||| {{choice2}}'
    id: 150789fe-e309-47a1-82c9-0a4dc2c6b12b
    jinja: "{% if question == \\"effect\\" %} \\n{{ premise }} What could happen next,\\
      \\ \\"{{ answer_choices[0] }}\\" or \\"{{ answer_choices[1] }}\\"? ||| {% if label != -1 %}{{ answer_choices[label]\\
      \\ }}{%endif%}\\n{% endif %}"
    metadata: !TemplateMetadata
      choices_in_prompt: true
      metrics:
      - Accuracy
      original_task: true
    name: "\\u2026What could happen next, C1 or C2?"
    reference: 'Somebody & others 2021'
  744047dc-1298-45a2-8d68-d67e3f834ded: !Template
    answer_choices: null
    id: 744047dc-1298-45a2-8d68-d67e3f834ded
    jinja: '{{ premise }} because ||| {{ [choice1, choice2][label] }}'
    metadata: !TemplateMetadata {}
    name: because
    reference: ''
"""
EXAMPLE = {"premise": "I ran.", "choice1": "I got warm.", "choice2": "It rained.", "question": "effect", "label": 0}


def test_a_file_of_promptsource_renders_as_it_does(tmp_path):
    path = tmp_path / "templates.yaml"
    path.write_text(FILE, encoding="utf-8")
    first, second = promptsource.load(path)
    assert (first.name, first.reference) == ("…What could happen next, C1 or C2?", "Somebody & others 2021")
    assert first.variables() == ("choice1", "choice2", "label", "premise", "question")
    assert slug(first.name) == "what_could_happen_next_c1_or_c2"
    assert first.render(EXAMPLE) == Rendered(
        'I ran. What could happen next, "I got warm." or "It rained."?', "I got warm.", ("I got warm.", "It rained.")
    )
    assert first.render({**EXAMPLE, "question": "cause"}) is None  # nothing at all
    assert first.render({**EXAMPLE, "label": -1}) is None  # no target
    assert second.render({**EXAMPLE, "label": 1}) == Rendered("I ran. because", "It rained.", None)


def test_a_separator_within_a_field_is_text():
    template = Template(name="t", jinja="{{ a }} ? ||| {{ answer_choices[0] }}", answer_choices="{{ b[0] }} ||| no")
    assert template.render({"a": "x ||| y", "b": ["p|||q"]}) == Rendered("x ||| y ?", "p|||q", ("p|||q", "no"))


def test_filters():
    template = Template(
        name="t",
        jinja="{{ a | most_frequent | join(' ') }} ||| {{ a[0] | highlight }}{% for x, y in zip(a, a) %}{{ x }}{% endfor %}",
    )
    assert template.render({"a": ["u", "v", "v", "u", "w"]}) == Rendered(
        "u v", "<span style='color: #F08080'>u</span>uvvuw", None
    )
    drawn = Template(
        name="t", jinja="{{ ['p', 'q', 'r'] | choice }}{{ a | choice }} {{ n }} ||| {{ ['x', 'y'] | random }}"
    )
    made = [drawn.render({"a": ["s", "t"], "n": n}) for n in range(200)]
    assert made == [drawn.render({"a": ["s", "t"], "n": n}) for n in range(200)]
    found = [(text.inputs.split()[0], text.targets) for text in made]
    assert {found.count(one) > 5 for one in set(found)} == {True}
    assert len(set(found)) == 12
    other = Template(name="u", jinja=drawn.jinja)
    assert [other.render({"a": ["s", "t"], "n": n}) for n in range(200)] != made


@pytest.mark.parametrize(
    ("jinja", "choices", "message"),
    [
        ("{{ a.b }} ||| x", None, "has no attribute 'b'"),
        ("{{ ''.__class__.__mro__ }} ||| x", None, "unsafe"),
        ("{{ a }} ||| x ||| y", None, r"expected \|\|\| once, but an example has it 2 times"),
        ("{{ a }} ||| x", "y ||| z", "target 'x' is not one of the answers: y, z"),
        ("{{ [] | choice }} ||| x", None, "choice of an empty list"),
        ("{{ 1 / 0 }} ||| x", None, "division by zero"),
    ],
)
def test_what_cannot_be_rendered_is_told(jinja, choices, message):
    with pytest.raises(UserError, match=f"template 'bad': .*{message}"):
        Template(name="bad", jinja=jinja, answer_choices=choices).render({"a": "text"})


def test_templates_that_cannot_be():
    with pytest.raises(UserError, match=r"template 'bad', line 2: unexpected '}'"):
        Template(name="bad", jinja="a\n{{ b } ||| c")
    with pytest.raises(UserError, match=r"template 'bad': \|\|\| is missing"):
        Template(name="bad", jinja="{{ b }}")
    with pytest.raises(UserError, match="has no name"):
        Template(name=" ", jinja="a ||| b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("templates: !!python/object/apply:os.getcwd []", r"yaml:1: broken YAML: could not determine a constructor"),
        ("a: [", "broken YAML"),
        ("dataset: x", "`templates` is missing"),
        ("templates: [{name: n, jinja: a ||| b, jinnja: c}]", "template 1: unknown key 'jinnja'. Nearest: jinja"),
        ("templates: [{name: n}]", "template 1: `jinja` must be text, not None"),
        ("templates: [{name: n, jinja: a}]", r"yaml: template 'n': \|\|\| is missing"),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        promptsource.load(tmp_path / "t.yaml")
    with pytest.raises(UserError, match=r"gone\.yaml: cannot be read"):
        promptsource.load(tmp_path / "gone.yaml")

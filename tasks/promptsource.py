"""Read promptsource's `templates.yaml` safely: only the tags `!Template` and `!TemplateMetadata` are known, and they become dicts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from t2t.errors import UserError, nearest
from t2t.tasks.templates import Template

_KNOWN = ("answer_choices", "id", "jinja", "metadata", "name", "reference")


class _Loader(yaml.SafeLoader):
    """Safe loader subclass, so that the new tags do not leak into `yaml.SafeLoader`."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, _mapping)


def load(path: str | os.PathLike[str]) -> list[Template]:
    """Return the templates of a file, in order.

    The file is a mapping with the key `templates`: a mapping of ids to templates, or a list of templates. A template has `name` and
    `jinja`, and may have `answer_choices` and `reference`. Its `id` and `metadata` are ignored.

    Raises:
      UserError: the file cannot be read, is not such YAML, or has a template with unknown keys; an error in a template.
    """
    try:
        found = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = path if mark is None else f"{path}:{mark.line + 1}"
        raise UserError(f"{where}: broken YAML: {getattr(error, 'problem', error)}.") from None
    templates = found.get("templates") if isinstance(found, dict) else None
    listed = list(templates.values()) if isinstance(templates, dict) else templates
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{path}: `templates` is missing: expected a mapping of ids to templates.")
    return [_template(path, place, template) for place, template in enumerate(listed, 1)]


def _template(path: str | os.PathLike[str], place: int, found: Any) -> Template:
    where = f"{path}: template {place}"
    if not isinstance(found, dict):
        raise UserError(f"{where}: expected a mapping with `name` and `jinja`.")
    for key in found:
        if key not in _KNOWN:
            raise UserError(f"{where}: unknown key {key!r}.{nearest(str(key), _KNOWN)}")
    for key in ("name", "jinja"):
        if not isinstance(found.get(key), str):
            raise UserError(f"{where}: `{key}` must be text, not {found.get(key)!r}.")
    for key in ("answer_choices", "reference"):
        if not isinstance(found.get(key), str | None):
            raise UserError(f"{where}: `{key}` must be text, not {found.get(key)!r}.")
    try:
        return Template(
            name=found["name"],
            jinja=found["jinja"],
            answer_choices=found.get("answer_choices"),
            reference=found.get("reference") or "",
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None

"""Chat templates that a task names: a file, a directory, or the text itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

from t2t.errors import UserError
from t2t.export.chat_template import template_file, template_in
from t2t.train.run import RECORD, read_record


def given_template(given: str) -> str:
    """Return the text of a template that a user names: a file, a directory of a run or of `transformers`, or Jinja text.

    The special tokens of a directory or of a tokenizer_config.json are written into the text, because another vocabulary may have others.
    Raises UserError if there is no template.
    """
    if "{" in given:
        return given
    path = Path(given).expanduser()
    if path.is_dir():
        learned = read_record(path).chat_template if (path / RECORD).is_file() else None
        if learned is not None:
            return learned
        kept = path / "huggingface"
        found = template_in(kept if kept.is_dir() else path)
        if found is None:
            raise UserError(f"template {given!r}: the directory has no chat template. Nearest: a file of Jinja text.")
    elif path.is_file():
        found = template_file(path, {})
    else:
        raise UserError(f"template {given!r}: no such file or directory. Nearest: a file of Jinja text.")
    named = {name: token for name, token in found.tokens.items() if re.search(rf"\b{name}\b", found.text)}
    return "".join(f"{{%- set {name} = {json.dumps(token)} -%}}\n" for name, token in named.items()) + found.text

"""Render scripts and manifests from templates, check the names in them, and submit them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2

from t2t.errors import UserError

_PLAIN = re.compile(r"[A-Za-z0-9%/._][A-Za-z0-9._@:/=,+%-]*")
_DNS = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


def render(template: str, **values: Any) -> str:
    """Render a template file. Its filters are `quote` (for the shell) and `json` (valid YAML)."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["quote"] = shlex.quote
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    text = resources.files("t2t.launch.launchers").joinpath(template).read_text(encoding="utf-8")
    return environment.from_string(text).render(**values)


def submit(command: Sequence[str], text: str, launcher: str, *, dry_run: bool) -> int:
    """Pass the text to a command's standard input, or print it (dry_run), and return the exit code. Raises UserError if the command is missing or fails."""
    if dry_run:
        print(text, end="")
        return 0
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            f"t2t launch {launcher}: {command[0]} is not installed. Nearest: --dry-run, which only prints its input."
        ) from None
    if done.returncode:
        raise UserError(f"t2t launch {launcher}: {command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    print(done.stdout.strip())
    return 0


def check_plain(value: str | None, option: str, launcher: str) -> None:
    """Raise UserError if the value has characters that are not safe in a script."""
    if value is not None and not _PLAIN.fullmatch(value):
        close = re.sub(r"[^A-Za-z0-9._@:/=,+%-]+", "-", value).lstrip("-@:=,+") or "t2t"
        raise UserError(
            f"t2t launch {launcher}: {option} {value!r} has characters that are not allowed in a script. Nearest: {close}."
        )


def check_dns(value: str | None, option: str, launcher: str, *, longest: int = 40) -> None:
    """Raise UserError if the value is not a valid name of a Kubernetes object or cloud resource."""
    if value is not None and (not _DNS.fullmatch(value) or len(value) > longest):
        close = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-0123456789")[:longest].strip("-") or "t2t"
        raise UserError(
            f"t2t launch {launcher}: {option} {value!r} is not a valid name: expected lower-case letters, digits and inner '-', starting with a letter, at most"
            f" {longest} characters. Nearest: {close}."
        )

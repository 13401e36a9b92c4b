"""Command-line words -> typed values, with tyro; a mistake becomes one line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from t2t.errors import UserError, nearest

T = TypeVar("T")
_FRAME = re.compile(r"[╭╮╰╯─│┃━┏┓┗┛]+")
_HELP = {"-h", "--help"}


def call(function: Callable[..., T], arguments: Sequence[str], *, prog: str) -> T:
    """Call a typed function with arguments read from the command line; its docstring is the help."""

    @functools.wraps(function)
    def bound(*args: Any, **kwargs: Any) -> Callable[[], T]:
        return functools.partial(function, *args, **kwargs)

    # Called after parsing, when standard error is no longer caught.
    return _one_line(functools.partial(tyro.cli, bound), arguments, prog, tyro.conf.AvoidSubcommands)()


def override(
    default: T, arguments: Sequence[str], *, prog: str, description: str, short: Mapping[str, str] | None = None
) -> T:
    """Return a configuration with the values that the command line changes.

    short: shorter names of options, "--batch-size" for "--data.batch-size".
    Raises UserError, naming the nearest option or the value, where a word fits nothing.
    """
    short = short or {}
    words = [_lengthen(word, short) for word in arguments]
    if not _HELP & set(words):
        _check_options({*option_names(default), *short}, words, prog)
    return _one_line(functools.partial(tyro.cli, type(default), default=default, description=description), words, prog)


def _lengthen(word: str, short: Mapping[str, str]) -> str:
    name, equals, value = word.partition("=")
    return short.get(name.replace("_", "-"), name) + equals + value if name.startswith("--") else word


def _one_line(parse: Callable[..., T], arguments: Sequence[str], prog: str, *config: Any) -> T:
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return parse(args=list(arguments), prog=prog, config=config)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    text = " ".join(_FRAME.sub(" ", errors.getvalue()).split())
    text = re.sub(r"\s*For full helptext, (run|see).*$", "", text)
    raise UserError(f"{prog}: {text}")


def option_names(config: Any, prefix: str = "--") -> Iterator[str]:
    """Yield the option of every value in a configuration, "--optimizer.schedule.peak" for example."""
    if dataclasses.is_dataclass(config):
        values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    elif isinstance(config, Mapping) and config:
        values = dict(config)
    else:
        yield prefix.removesuffix(".")
        return
    for name, value in values.items():
        yield from option_names(value, f"{prefix}{name.replace('_', '-')}.")


def _check_options(known: set[str], arguments: Sequence[str], prog: str) -> None:
    for word in arguments:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in known:
            raise UserError(f"{prog}: unknown option {word}.{nearest(name, known)}")

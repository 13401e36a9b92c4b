"""Parse command-line arguments into typed values, with tyro. A mistake becomes a one-line UserError."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import math
import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from t2t import former_names
from t2t.api.option_names import nearest_options, option_names
from t2t.errors import UserError, nearest
from t2t.limits import OutOfLimits, check_arguments, option

T = TypeVar("T")
_FRAME = re.compile(r"[╭╮╰╯─│┃━┏┓┗┛]+")
_CHOICE = re.compile(r"nvalid choice '([^']*)' for argument '([^']*)'\. Expected one of \((.*)\)\.")
_HELP = {"-h", "--help"}
_BOOLEANS = {"True": True, "true": True, "False": False, "false": False}
DEFAULT = "default"
"""The value of an option that is given without one, if its type is a Literal with this value."""


def call(function: Callable[..., T], arguments: Sequence[str], *, prog: str) -> T:
    """Call a typed function with command-line arguments. Its docstring is the help.

    Raises UserError for an unknown option or a bad value, with the nearest valid one.
    """
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function)
    named = [name for name, it in signature.parameters.items() if it.kind is it.KEYWORD_ONLY]
    flags = {option(name) for name in named if hints[name] is bool}
    bare = {option(name) for name in named if DEFAULT in _literals(hints[name])}
    words = _with_defaults(_booleans(arguments, flags), bare)
    if asks_help(words):
        words = ["--help"]  # the other arguments may be incomplete
    else:
        _check_options({*map(option, named), *map(_off, flags)}, words, prog)

    @functools.wraps(function)
    def bound(*args: Any, **kwargs: Any) -> Callable[[], T]:
        try:
            check_arguments(function, signature.bind(*args, **kwargs).arguments)
        except OutOfLimits as error:
            raise error.at(option(error.field) if error.field in named else error.field.upper()) from None
        return functools.partial(function, *args, **kwargs)

    # The function runs after parsing: while parsing, standard error is captured.
    return _one_line(functools.partial(tyro.cli, bound), words, prog, tyro.conf.AvoidSubcommands)()


def override(
    default: T,
    arguments: Sequence[str],
    *,
    prog: str,
    description: str,
    short: Mapping[str, str] | None = None,
    also: Collection[str] = (),
) -> T:
    """Return a configuration with the values from the command line.

    short: short option -> option, for example "--batch-size" -> "--data.batch-size".
    also:  further options of the command, which error messages can suggest.
    Raises UserError for an unknown option or a bad value, with the nearest valid one.
    """
    short = short or {}
    known = list(option_names(default))
    flags = {name for name, flag in known if flag}
    words = _booleans(_renamed([_lengthen(word, short) for word in arguments], dict(known)), flags)
    if not asks_help(words):
        _check_options({name for name, _ in known} | {*map(_off, flags), *short}, words, prog, also=also)
    try:
        cli = functools.partial(tyro.cli, type(default), default=default, description=description)
        return _one_line(cli, words, prog, tyro.conf.AvoidSubcommands)
    except OutOfLimits as error:
        raise error.at(_source_option(error, words, [name for name, _ in known]) or error.source) from None


def asks_help(arguments: Sequence[str]) -> bool:
    """Return whether the arguments have -h or --help."""
    return bool(_HELP & set(arguments))


@contextlib.contextmanager
def options() -> Iterator[None]:
    """Name the option in OutOfLimits errors that are raised inside, for objects that are made from a command's own options."""
    try:
        yield
    except OutOfLimits as error:
        raise error.at(option(error.field)) from None


def _lengthen(word: str, short: Mapping[str, str]) -> str:
    name, equals, value = word.partition("=")
    return short.get(name.replace("_", "-"), name) + equals + value if name.startswith("--") else word


def _renamed(words: Sequence[str], known: Collection[str]) -> list[str]:
    """Replace the former names of options and values by the present ones."""
    renamed: list[str] = []
    field = ""
    for word in words:
        if not word.startswith("--"):
            renamed.append(former_names.value(field, word))
            continue
        name, equals, value = word.partition("=")
        path, dot, field = name.replace("_", "-").rpartition(".")
        now = former_names.SIZES.get(field.replace("-", "_"), "").replace("_", "-")
        renamed.append(
            (f"{path}{dot}{now}" if f"{path}{dot}{now}" in known else name) + equals + former_names.value(field, value)
        )
    return renamed


def _booleans(arguments: Sequence[str], flags: Collection[str]) -> list[str]:
    """Rewrite `--x True` and `--x=False` of boolean options to tyro's form, `--x` and `--no-x`."""
    words: list[str] = []
    rest = list(arguments)
    offs = {_off(flag): flag for flag in flags}
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*words, word, *rest]
        name, equals, value = word.partition("=")
        plain = name.replace("_", "-")
        if equals and plain in offs:
            raise UserError(f"{plain} takes no value. Nearest: {plain}, {offs[plain]}.")
        if plain not in flags:
            words.append(word)
            continue
        if not equals and rest and rest[0] in _BOOLEANS:
            equals, value = "=", rest.pop(0)
        if equals and value not in _BOOLEANS:
            raise UserError(f"{plain} {value!r} is neither True nor False. Nearest: {plain}, {_off(plain)}.")
        words.append(plain if not equals or _BOOLEANS[value] else _off(plain))
    return words


def _literals(hint: Any) -> set[Any]:
    """Return the values of the Literals in a type."""
    if typing.get_origin(hint) is typing.Literal:
        return set(typing.get_args(hint))
    return {value for part in typing.get_args(hint) for value in _literals(part)}


def _with_defaults(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """Insert the value DEFAULT after each option in `names` that is given without a value."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    words: list[str] = []
    for i, word in enumerate(arguments[:end]):
        words.append(word)
        if word.replace("_", "-") in names and (i + 1 == end or arguments[i + 1].startswith("-")):
            words.append(DEFAULT)
    return [*words, *arguments[end:]]


def _off(flag: str) -> str:
    path, dot, last = flag.removeprefix("--").rpartition(".")
    return f"--{path}{dot}no-{last}"


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
    text = re.sub(r"^Unrecognized options (?=Unrecognized options: )", "", text)
    if wrong := _CHOICE.search(text):
        value, name, choices = wrong.groups()
        known = re.findall(r"'([^']*)'", choices)
        raise UserError(f"{prog}: {name} {value!r} is not one of its values.{nearest(value, known)}")
    raise UserError(f"{prog}: {text}")


def _check_options(known: set[str], arguments: Sequence[str], prog: str, *, also: Collection[str] = ()) -> None:
    for word in arguments:
        if word == "--":
            return
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in known:
            raise UserError(f"{prog}: unknown option {word}.{nearest_options(word, {*known, *also})}")


def _source_option(error: OutOfLimits, words: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the option that has the wrong value, or the only option for that field. None if there are several such options."""
    found = []
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.startswith("--") and _last_part(name.replace("_", "-")) == option(error.field).removeprefix("--"):
            found.append((name.replace("_", "-"), value if equals else next(iter(words[i + 1 :]), "")))
    same = [name for name, value in found if _same_value(value, error.value)]
    if same or found:
        return next(iter(same or [name for name, _ in found]))
    able = [name for name in known if _last_part(name) == option(error.field).removeprefix("--")]
    return able[0] if len(able) == 1 else None


def _last_part(name: str) -> str:
    return name.removeprefix("--").rpartition(".")[2]


def _same_value(text: str, value: Any) -> bool:
    try:
        return str(value) == text or float(text) == value or (math.isnan(float(text)) and math.isnan(value))
    except (TypeError, ValueError, OverflowError):
        return False

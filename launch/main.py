"""The command line: `t2t COMMAND ...`."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from t2t import garbage
from t2t.api.escapes import visible
from t2t.api.quiet import hush_tensorflow
from t2t.api.session import use_compilation_cache
from t2t.distributed.end import end_with_launcher, leave, several
from t2t.errors import UserError, in_one_line, is_out_of_memory, nearest
from t2t.launch import logs
from t2t.launch.codes import DONE, FAILED, MISTAKE, STOPPED
from t2t.launch.memory import use_huge_pages
from t2t.launch.streams import discard_output, finish, prepare
from t2t.train.stop import EndOnSignal

STARTED = time.time()
"""When the process began, near enough: for the ledger of a run's time."""
LINGER = 1.0
"""Seconds that process 0 stays after a mistake, so that the others end before it."""

__all__ = ["DONE", "FAILED", "MISTAKE", "STOPPED", "main", "run"]


class Command(NamedTuple):
    """Where a command's function is, imported only when it is called, and a line on what it does.

    data:    whether it reads data.
    several: whether several processes may do it together.
    trains:  whether its start, of which collecting garbage is left out, ends with the first step.
    goes_on: whether a signal stops it such that the same command goes on.
    runs:    whether it reads runs, whose code --trust-code is about.
    """

    module: str
    function: str
    about: str
    data: bool = False
    several: bool = False
    trains: bool = False
    goes_on: bool = False
    runs: bool = False


COMMANDS = {
    "train": Command(
        "t2t.launch.train",
        "command",
        "train a recipe in a run directory, or go on with one",
        data=True,
        several=True,
        trains=True,
        goes_on=True,
        runs=True,
    ),
    "eval": Command("t2t.launch.evaluate", "evaluate", "evaluate a run's checkpoint", True, True, runs=True),
    "infer": Command("t2t.launch.infer", "command", "ask a run: text in, text out", runs=True),
    "plan": Command("t2t.launch.plan", "command", "foresee memory and speed on hardware that is not there", runs=True),
    "bench": Command(
        "t2t.launch.bench.command", "command", "measure a recipe beside what this machine can do", True, runs=True
    ),
    "export": Command("t2t.launch.export", "export", "write a run's model for use elsewhere", runs=True),
    "import": Command("t2t.launch.import_model", "import_model", "make a run of a model of transformers"),
    "convert-check": Command(
        "t2t.launch.convert_check", "convert_check", "compare an import with transformers, layer by layer"
    ),
    "profile": Command("t2t.launch.show_profile", "profile", "show where the time of traced steps went"),
    "tasks": Command("t2t.launch.show_tasks", "tasks", "list the tasks, or show a task's examples", True),
    "models": Command("t2t.launch.show_models", "models", "list the model presets, or show a preset's parameters"),
    "grid": Command(
        "t2t.launch.grid.command", "command", "train architectures and objectives side by side", True, goes_on=True
    ),
    "recipes": Command("t2t.launch.show_recipes", "recipes", "list what train can be given"),
    "cache": Command("t2t.launch.cache", "cache", "prepare a task offline, in parallel, for training to read", True),
    "vocab": Command("t2t.launch.vocab", "vocab", "train a vocabulary on a task's text", True),
    "launch": Command("t2t.launch.launch", "command", "start several processes, here or on a cluster", goes_on=True),
}


class Common(NamedTuple):
    """The options that every command has.

    imports:  --import's modules and files.
    data_dir: --data-dir.
    trusted:  whether --trust-code was given.
    debug:    whether --debug was.
    """

    imports: tuple[str, ...]
    data_dir: str | None
    trusted: bool
    debug: bool


LESS_MEMORY = {
    "train": "Less is wanted with a smaller --batch-size, more --microbatches, --model.remat, a smaller model; t2t plan tells what a training needs.",
    "eval": "Less is wanted with a smaller --batch-size.",
    "infer": "Less is wanted with a smaller --batch-size, shorter texts, a smaller --max-length.",
    "bench": "Less is wanted with a smaller --batch-size.",
}
"""What a command can be given where memory is used up."""

USAGE = """usage: t2t COMMAND ... [--import MODULE_OR_FILE ...] [--trust-code] [--data-dir DIR] [--debug]

{commands}

t2t COMMAND --help tells a command's options.
--import registers your own tasks and recipes: a module's name or a .py file; a run keeps a copy of it.
--trust-code runs the code that a run keeps, after showing its files: only for runs of people you trust.
--data-dir names the directory of data sets of TensorFlow Datasets, as T2T_DATA_DIR does. --debug shows the traceback of a mistake.
Exit codes: 0 done, 2 a mistake in what was asked for, 75 stopped on request with everything saved, 1 anything else."""


def main() -> None:
    """Run the command line and exit with its code."""
    prepare()
    end_with_launcher()
    goes_on = _goes_on(sys.argv[1:])
    if goes_on:
        EndOnSignal.keep()
    use_huge_pages()
    try:
        with EndOnSignal(STOPPED) if goes_on else contextlib.nullcontext():
            code = finish(run(sys.argv[1:]))
    except BaseException:
        if not several() and not _compiling():
            raise
        traceback.print_exc()
        leave(FAILED)
    if (several() and code in (FAILED, MISTAKE)) or _compiling():
        leave(code)
    sys.exit(code)


def _goes_on(arguments: Sequence[str]) -> bool:
    words = _common(arguments)[0]
    return bool(words) and words[0] in COMMANDS and COMMANDS[words[0]].goes_on


def _compiling() -> bool:
    """Return whether a thread is compiling: the program's end would pull JAX away from under it. Loads no JAX."""
    compiler = sys.modules.get("t2t.train.background_compiler")
    return compiler is not None and compiler.compiling()


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    words, common = _common(arguments)
    logs.begin(debug=common.debug)
    try:
        if common.data_dir is not None:
            _use_data_dir(common.data_dir)
        if not words or words[0] in ("-h", "--help", "help"):
            print(USAGE.format(commands="\n".join(f"  {name:13} {it.about}" for name, it in COMMANDS.items())))
            return DONE
        name, *rest = words
        if name in ("--version", "version"):
            import t2t

            print(t2t.__version__)
            return DONE
        if name not in COMMANDS:
            raise UserError(f"t2t: unknown command {name!r}.{nearest(name, COMMANDS)}")
        use_compilation_cache()
        hush_tensorflow()
        if common.trusted and not COMMANDS[name].runs:
            raise UserError(f"t2t {name}: --trust-code runs the code that a run keeps, and this command reads no run")
        return _call(COMMANDS[name], rest, common, f"t2t {name}")
    except UserError as mistake:
        if common.debug:
            raise
        _tell(mistake)
        return MISTAKE
    except SystemExit as stop:
        if {"-h", "--help"} & set(words):
            return DONE
        if common.debug:
            raise
        _tell(_ended(stop))
        return MISTAKE
    except BrokenPipeError:  # whoever read our output has seen enough
        discard_output()
        return DONE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        line = in_one_line(error)
        if common.debug or line is None:
            raise
        help = LESS_MEMORY.get(words[0]) if is_out_of_memory(error) else None
        print(f"error: {visible(line)}{f'. {help}' if help else ''}", file=sys.stderr, flush=True)
        return FAILED


def _ended(stop: SystemExit) -> UserError:
    """Return what to say where code that was called, a task's or a metric's, ended the program."""
    last = traceback.extract_tb(stop.__traceback__)[-1]
    said = "" if stop.code is None else repr(stop.code)
    return UserError(f"{last.filename}:{last.lineno}: sys.exit({said}) ends the program before the command is done")


def _tell(mistake: UserError) -> None:
    """Print a mistake in one line; of several processes that make the same one, process 0 does it."""
    which = ""
    if several():
        import jax

        from t2t.distributed.preflight import AgreedError, passed, report_mistake

        if not passed() and not isinstance(mistake, AgreedError):
            mistake = report_mistake(mistake)
        if isinstance(mistake, AgreedError) and jax.process_index() != 0:
            time.sleep(LINGER / 2)  # whoever ends all where one has ended must not come before process 0 has told
            return
        if not isinstance(mistake, AgreedError):
            which = f" (process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()})"
    print(f"error{which}: {visible(' '.join(str(mistake).split()))}", file=sys.stderr, flush=True)
    if several():
        time.sleep(LINGER)  # JAX aborts the others, with a stack trace, as soon as process 0 has ended


def _common(arguments: Sequence[str]) -> tuple[list[str], Common]:
    """Take the options that every command has out of the words."""
    words: list[str] = []
    imports: list[str] = []
    directory: str | None = None
    rest = iter(arguments)
    for word in rest:
        if word == "--":  # what follows is another command's
            words += [word, *rest]
        elif word == "--import":
            imports.append(next(rest, ""))
        elif word.startswith("--import="):
            imports.append(word.partition("=")[2])
        elif word == "--data-dir" or word.startswith("--data-dir="):
            directory = word.partition("=")[2] if "=" in word else next(rest, "")
        elif word not in ("--trust-code", "--debug"):
            words.append(word)
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return words, Common(tuple(imports), directory, "--trust-code" in own, "--debug" in own)


def _use_data_dir(directory: str) -> None:
    """Read data sets of TFDS from a directory, in this program and those that it starts. Raises UserError for what is none."""
    if not directory or os.path.isfile(directory):
        raise UserError(f"--data-dir {directory!r}: {'is a file' if directory else 'names no directory'}.")
    os.environ["T2T_DATA_DIR"] = directory if "://" in directory else os.path.abspath(os.path.expanduser(directory))


def _call(command: Command, rest: Sequence[str], common: Common, prog: str) -> int:
    garbage.postpone()
    try:
        return _imported(command, rest, common, prog)
    finally:
        garbage.resume()


def _imported(command: Command, rest: Sequence[str], common: Common, prog: str) -> int:
    from t2t.api.user_code.imports import forget, use
    from t2t.launch import parse

    if command.several:
        from t2t.distributed.start import initialise

        initialise()

    if command.data and common.imports:  # which register tasks, most likely
        from t2t.api.quiet import import_tensorflow

        import_tensorflow()
    forget()
    use(common.imports)
    if command.runs:
        from t2t.api.user_code.run_code import trust

        trust(common.trusted)
    function = getattr(importlib.import_module(command.module), command.function)
    if not command.trains:
        garbage.resume()
    if command.module in (
        "t2t.launch.train",
        "t2t.launch.plan",
        "t2t.launch.bench.command",
        "t2t.launch.grid.command",
    ):  # their options are those of the recipe they are given
        return function(rest, common.imports)
    if command.module == "t2t.launch.launch":  # its options are those of the launcher, and another command's
        return function(rest)
    result = parse.call(function, rest, prog=prog)
    return result if isinstance(result, int) else DONE

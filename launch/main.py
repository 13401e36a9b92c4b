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
"""Time at which the process started (approximately), for the ledger of a run's time."""
LINGER = 1.0
"""Seconds that process 0 waits after a user mistake, so that the other processes exit first."""

__all__ = ["DONE", "FAILED", "MISTAKE", "STOPPED", "main", "run"]


class Command(NamedTuple):
    """A command: the module and the function that implement it, and a one-line description. The module is imported when the command is called.

    data:      the command reads data.
    several:   several processes can run it together.
    trains:    garbage collection stays off until the first training step; for other commands it is off only during imports.
    resumable: after a signal stops it, the same command resumes.
    runs:      the command reads run directories, so --trust-code applies.
    """

    module: str
    function: str
    about: str
    data: bool = False
    several: bool = False
    trains: bool = False
    resumable: bool = False
    runs: bool = False


COMMANDS = {
    "train": Command(
        "t2t.launch.train",
        "command",
        "train a recipe in a run directory, or resume a run",
        data=True,
        several=True,
        trains=True,
        resumable=True,
        runs=True,
    ),
    "eval": Command("t2t.launch.evaluate", "evaluate", "evaluate a run's checkpoint", True, True, runs=True),
    "infer": Command("t2t.launch.infer", "command", "generate answers with a run: text in, text out", runs=True),
    "plan": Command(
        "t2t.launch.plan", "command", "predict memory and speed on hardware that you do not have", runs=True
    ),
    "bench": Command(
        "t2t.launch.bench.command",
        "command",
        "measure a recipe and compare it with the limits of this machine",
        True,
        runs=True,
    ),
    "export": Command("t2t.launch.export", "export", "export a run's model to another format", runs=True),
    "quantize": Command(
        "t2t.launch.quantize", "quantize", "quantize a run's kernels, calibrated on a task", True, runs=True
    ),
    "import": Command("t2t.launch.import_model", "import_model", "make a run from a model of transformers"),
    "convert-check": Command(
        "t2t.launch.convert_check", "convert_check", "compare an import with transformers, layer by layer"
    ),
    "profile": Command("t2t.launch.show_profile", "profile", "show where the time of traced steps went"),
    "tasks": Command("t2t.launch.show_tasks", "tasks", "list the tasks, or show a task's examples", True),
    "models": Command("t2t.launch.show_models", "models", "list the model presets, or show a preset's parameters"),
    "grid": Command(
        "t2t.launch.grid.command", "command", "train architectures and objectives side by side", True, resumable=True
    ),
    "recipes": Command("t2t.launch.show_recipes", "recipes", "list the recipes for train"),
    "cache": Command("t2t.launch.cache", "cache", "prepare a task offline, in parallel, for training", True),
    "vocab": Command("t2t.launch.vocab", "vocab", "train a vocabulary on a task's text", True),
    "launch": Command("t2t.launch.launch", "command", "start several processes, here or on a cluster", resumable=True),
}


class Common(NamedTuple):
    """The options that every command has: --import (repeatable), --data-dir, --trust-code and --debug."""

    imports: tuple[str, ...]
    data_dir: str | None
    trusted: bool
    debug: bool


LESS_MEMORY = {
    "train": "To use less memory: a smaller --batch-size, more --microbatches, --model.remat, or a smaller model; t2t plan predicts the memory.",
    "eval": "To use less memory: a smaller --batch-size.",
    "infer": "To use less memory: a smaller --batch-size, shorter texts, or a smaller --max-length.",
    "bench": "To use less memory: a smaller --batch-size.",
    "quantize": "To use less memory: fewer --rows.",
}
"""Hints that are printed when a command runs out of memory."""

USAGE = """usage: t2t COMMAND ... [--import MODULE_OR_FILE ...] [--trust-code] [--data-dir DIR] [--debug]

{commands}

t2t COMMAND --help lists a command's options.
--import MODULE_OR_FILE imports a module or a .py file that registers your own tasks and recipes. A run keeps a copy of the file.
--trust-code lists the code files that a run keeps and runs them. Use it only for runs of people you trust.
--data-dir DIR is the directory of TensorFlow Datasets data sets, like the variable T2T_DATA_DIR.
--debug shows the traceback of an error.
Exit codes: 0 done, 2 a user's mistake, 75 stopped on request with everything saved, 1 any other failure."""


def main() -> None:
    """Run the command line and exit with its code."""
    prepare()
    end_with_launcher()
    resumable = _resumable(sys.argv[1:])
    if resumable:
        EndOnSignal.keep()
    use_huge_pages()
    try:
        with EndOnSignal(STOPPED) if resumable else contextlib.nullcontext():
            code = finish(run(sys.argv[1:]))
    except BaseException:
        if not several() and not _compiling():
            raise
        traceback.print_exc()
        leave(FAILED)
    if (several() and code in (FAILED, MISTAKE)) or _compiling():
        leave(code)
    sys.exit(code)


def _resumable(arguments: Sequence[str]) -> bool:
    words = _common(arguments)[0]
    return bool(words) and words[0] in COMMANDS and COMMANDS[words[0]].resumable


def _compiling() -> bool:
    """Return whether a background thread is compiling: a normal exit would shut JAX down while the thread uses it. Does not import JAX."""
    compiler = sys.modules.get("t2t.train.background_compiler")
    return compiler is not None and compiler.compiling()


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    words, common = _common(arguments)
    logs.configure(debug=common.debug)
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
            raise UserError(f"t2t {name}: --trust-code runs the code that a run keeps, but this command reads no run")
        return _call(COMMANDS[name], rest, common, f"t2t {name}")
    except UserError as mistake:
        if common.debug:
            raise
        _report(mistake)
        return MISTAKE
    except SystemExit as stop:
        if {"-h", "--help"} & set(words):
            return DONE
        if common.debug:
            raise
        _report(_unexpected_exit(stop))
        return MISTAKE
    except BrokenPipeError:  # the reader of our output has closed the pipe
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


def _unexpected_exit(stop: SystemExit) -> UserError:
    """Return the error for user code, for example a task or a metric, that called sys.exit."""
    last = traceback.extract_tb(stop.__traceback__)[-1]
    code = "" if stop.code is None else repr(stop.code)
    return UserError(f"{last.filename}:{last.lineno}: sys.exit({code}) ends the program before the command is done")


def _report(mistake: UserError) -> None:
    """Print a mistake in one line. If all processes make the same mistake, only process 0 prints it."""
    which = ""
    if several():
        import jax

        from t2t.distributed.preflight import AgreedError, passed, report_mistake

        if not passed() and not isinstance(mistake, AgreedError):
            mistake = report_mistake(mistake)
        if isinstance(mistake, AgreedError) and jax.process_index() != 0:
            time.sleep(
                LINGER / 2
            )  # a launcher that ends all processes when one exits must not do so before process 0 prints
            return
        if not isinstance(mistake, AgreedError):
            which = f" (process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()})"
    print(f"error{which}: {visible(' '.join(str(mistake).split()))}", file=sys.stderr, flush=True)
    if several():
        time.sleep(LINGER)  # JAX aborts the other processes, with a stack trace, as soon as process 0 exits


def _common(arguments: Sequence[str]) -> tuple[list[str], Common]:
    """Return the arguments without the common options, and the common options."""
    words: list[str] = []
    imports: list[str] = []
    directory: str | None = None
    rest = iter(arguments)
    for word in rest:
        if word == "--":  # the rest belongs to another command
            words += [word, *rest]
        elif word == "--import":
            imports.append(next(rest, ""))
        elif word.startswith("--import="):
            imports.append(word.partition("=")[2])
        elif word == "--data-dir" or word.startswith("--data-dir="):
            directory = word.partition("=")[2] if "=" in word else next(rest, "")
        elif word not in ("--trust-code", "--debug"):
            words.append(word)
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return words, Common(tuple(imports), directory, "--trust-code" in before, "--debug" in before)


def _use_data_dir(directory: str) -> None:
    """Set the directory of TFDS data sets for this process and its children. Raises UserError if the path is empty or a file."""
    if not directory or os.path.isfile(directory):
        raise UserError(f"--data-dir {directory!r}: {'is a file' if directory else 'the directory is missing'}.")
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

    if command.data and common.imports:  # the imports probably register tasks
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
    ):  # their options depend on the recipe
        return function(rest, common.imports)
    if command.module == "t2t.launch.launch":  # its options depend on the launcher and on the launched command
        return function(rest)
    result = parse.call(function, rest, prog=prog)
    return result if isinstance(result, int) else DONE

"""The command line: `t2t COMMAND ...`."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from t2t.errors import UserError, nearest
from t2t.launch.memory import use_huge_pages

DONE, FAILED, MISTAKE, STOPPED = 0, 1, 2, 75


class Command(NamedTuple):
    """Where a command's function is, imported only when it is called, a line on what it does, and whether it reads data."""

    module: str
    function: str
    about: str
    data: bool = False


COMMANDS = {
    "train": Command("t2t.launch.train", "command", "train a recipe in a run directory, or go on with one", True),
    "eval": Command("t2t.launch.evaluate", "evaluate", "evaluate a run's checkpoint", True),
    "infer": Command("t2t.launch.infer", "command", "ask a run: text in, text out"),
    "export": Command("t2t.launch.export", "export", "write a run's model for use elsewhere"),
    "import": Command("t2t.launch.import_model", "import_model", "make a run of a model of transformers"),
    "convert-check": Command(
        "t2t.launch.convert_check", "convert_check", "compare an import with transformers, layer by layer"
    ),
    "tasks": Command("t2t.launch.show_tasks", "tasks", "list the tasks, or show a task's examples", True),
    "models": Command("t2t.launch.show_models", "models", "list the model presets, or show a preset's parameters"),
    "recipes": Command("t2t.launch.show_recipes", "recipes", "list what train can be given"),
    "vocab": Command("t2t.launch.vocab", "vocab", "train a vocabulary on a task's text", True),
}

USAGE = """usage: t2t COMMAND ... [--import MODULE_OR_FILE ...] [--debug]

{commands}

t2t COMMAND --help tells a command's options.
--import registers your own tasks and recipes: a module's name or a .py file. --debug shows the traceback of a mistake.
Exit codes: 0 done, 2 a mistake in what was asked for, 75 stopped on request with everything saved, 1 anything else."""


def main() -> None:
    """Run the command line and exit with its code."""
    use_huge_pages()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    words, imports, debug = _common(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
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
        _compilation_cache()
        os.environ.setdefault(
            "TF_CPP_MIN_LOG_LEVEL", "3"
        )  # TensorFlow, which only reads data here, would tell of its GPUs
        return _call(COMMANDS[name], rest, imports, f"t2t {name}")
    except UserError as mistake:
        if debug:
            raise
        print(f"error: {' '.join(str(mistake).split())}", file=sys.stderr)
        return MISTAKE
    except SystemExit as stop:  # tyro's --help
        return stop.code if isinstance(stop.code, int) else DONE
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _common(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...], bool]:
    """Take --import and --debug, which every command has, out of the words."""
    words: list[str] = []
    imports: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--import":
            imports.append(next(rest, ""))
        elif word.startswith("--import="):
            imports.append(word.partition("=")[2])
        elif word != "--debug":
            words.append(word)
    return words, tuple(imports), "--debug" in arguments


def _call(command: Command, rest: Sequence[str], imports: tuple[str, ...], prog: str) -> int:
    from t2t.launch import parse
    from t2t.launch.imports import use

    if command.data and imports:  # which register tasks, most likely
        from t2t.launch.quiet import import_tensorflow

        import_tensorflow()
    use(imports)
    function = getattr(importlib.import_module(command.module), command.function)
    if command.module == "t2t.launch.train":  # its options are those of the recipe it is given
        return function(rest, imports)
    result = parse.call(function, rest, prog=prog)
    return result if isinstance(result, int) else DONE


def _compilation_cache() -> None:
    """Let XLA keep compiled programs between runs, unless the user has chosen where or that it doesn't."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or "JAX_ENABLE_COMPILATION_CACHE" in os.environ:
        return
    base = os.environ.get("T2T_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2t"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(base) / "xla")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

"""`t2t launch WHERE [--option value ...] -- train RECIPE ...`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence

from t2t.errors import UserError, nearest
from t2t.launch import parse
from t2t.launch.main import COMMANDS
from t2t.limits import OutOfLimits
from t2t.paths import misspelled

LAUNCHERS = {
    "local": ("t2t.launch.launchers.local", "Local"),
    "slurm": ("t2t.launch.launchers.slurm", "Slurm"),
    "kubernetes": ("t2t.launch.launchers.kubernetes", "Kubernetes"),
    "tpu-vm": ("t2t.launch.launchers.tpu_vm", "TpuVm"),
}
"""Launcher -> module and class of its options. The module is imported only when the launcher is used."""

USAGE = "t2t launch {local|slurm|kubernetes|tpu-vm} [--option value ...] -- train RECIPE --dir RUN [--option value ...]"


def command(arguments: Sequence[str]) -> int:
    """Start the processes of a training, or print the script that starts them."""
    arguments = list(arguments)
    at = arguments.index("--") if "--" in arguments else len(arguments)
    before, words = arguments[:at], arguments[at + 1 :]
    if before and before[0] in ("-h", "--help"):
        print(f"usage: {USAGE}\n\nt2t launch LAUNCHER --help lists the options of a launcher.")
        return 0
    if not before:
        raise UserError(f"t2t launch: the launcher is missing: {USAGE}")
    where, *options = before
    if where not in LAUNCHERS:
        raise UserError(f"t2t launch: unknown launcher {where!r}.{nearest(where, LAUNCHERS)}")
    module, name = LAUNCHERS[where]
    launcher = getattr(importlib.import_module(module), name)()
    prog = f"t2t launch {where}"
    launcher = parse.override(
        launcher, options, prog=prog, description=(inspect.getdoc(type(launcher)) or "").partition("Args:")[0]
    )
    _check(words, prog)
    return launcher.launch(words)


PATHS = (
    "--dir",
    "--vocabulary",
    "--data.cached",
    "--start-from.run",
    "--start-from.decoder-run",
    "--objective.teacher",
    "--objective.reference",
)
"""Options of training whose value is a path on the machines that train."""
RUN_RECIPES = ("from:", "discriminator:", "contrastive:", "encoder-decoder:", "distilled:", "preferences:")
"""Prefixes of recipes that name a run's path, or the paths of two runs with a comma between them, as in `t2t.api.recipes`. That module is not imported here: a launcher only starts processes."""


def check_paths(words: Sequence[str]) -> None:
    """Raise UserError for paths that cannot exist on any machine, for example URLs, before anything is started."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        source = name.replace("_", "-")
        if source in PATHS:
            texts = [value if equals else after]
        elif word.startswith(RUN_RECIPES):
            source, _, runs = word.partition(":")
            texts = runs.split(",") if source == "encoder-decoder" else [runs]
        else:
            continue
        for text in texts:
            if why := misspelled(text):
                raise OutOfLimits("path", text, why, source)


def _check(words: Sequence[str], prog: str) -> None:
    startable = [name for name, it in COMMANDS.items() if it.several]
    if not words:
        raise UserError(f"{prog}: the command after -- is missing. Example: {prog} -- train t5:quickstart --dir RUN")
    check_paths(words)
    first = next((word for word in words if not word.startswith("-")), words[0])
    if first not in startable:
        raise UserError(
            f"{prog}: {first!r} (after --) is not a command for several processes.{nearest(first, startable)}"
        )

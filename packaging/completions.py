"""Write shell completions of safe-modprobectl for bash, zsh and fish, generated from its parser by shtab.

    completions.py FOLDER [EXTENSIONS]

EXTENSIONS is the folder in which `make build` left the compiled part of the package, if it is elsewhere.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import shtab

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import safe_modprobe

if len(sys.argv) > 2:
    safe_modprobe.__path__.append(sys.argv[2])

from safe_modprobe.admin.commands.main import parser
from safe_modprobe.capability import NAMES

FILES = {"bash": "safe-modprobectl", "zsh": "_safe-modprobectl", "fish": "safe-modprobectl.fish"}
"""The file name that each shell looks for. shtab supports fish from version 1.8 on."""

USERS = {
    "bash": "_safe_modprobectl_users",
    "zsh": "_users",
    "fish": "(__fish_complete_users)",
    "preamble": {"bash": '_safe_modprobectl_users() { compgen -u -- "$1"; }'},
}

KERNELS = {
    "bash": "_safe_modprobectl_kernels",
    "zsh": "($(ls /lib/modules))",
    "fish": "(ls /lib/modules)",
    "preamble": {"bash": '_safe_modprobectl_kernels() { compgen -W "$(ls /lib/modules)" -- "$1"; }'},
}

VALUES: Mapping[str, Any] = {
    "DIR": shtab.DIRECTORY,
    "FILE": shtab.FILE,
    "PATH": shtab.FILE,
    "VERSION": KERNELS,
}
"""A value's placeholder in --help -> how shells complete it."""


def arguments(parent: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield every argument, also of the subcommands, and replace each subcommand's description by its summary."""
    for action in parent._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action._choices_actions:
                action.choices[command.dest].description = command.help  # Shells show one line.
                yield from arguments(action.choices[command.dest])


def main(folder: Path) -> None:
    """Write a file FOLDER/SHELL/… for each shell."""
    top = parser()
    for action in arguments(top):
        if action.metavar == "CAP":
            action.choices = NAMES
        elif "--user" in action.option_strings:
            action.complete = USERS  # type: ignore[attr-defined]
        elif isinstance(action.metavar, str) and action.metavar in VALUES:
            action.complete = VALUES[action.metavar]  # type: ignore[attr-defined]
    for shell in set(FILES) & set(shtab.SUPPORTED_SHELLS):
        (folder / shell).mkdir(parents=True, exist_ok=True)
        (folder / shell / FILES[shell]).write_text(shtab.complete(top, shell))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

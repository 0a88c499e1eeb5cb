"""Make the manual with scdoc, from the sources in this folder and from the program's own parsers.

    generate.py FOLDER [EXTENSIONS]

It writes the pages into FOLDER, and also the sources as scdoc got them. A line `@...@` of a source
is replaced by generated text, so that --help, the parsers and the manual agree. EXTENSIONS is the folder where
`make build` left the compiled part of the package, if that is not in the package itself.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent

sys.path.insert(0, str(HERE.parents[1]))

import tomli  # noqa: E402

import safe_modprobe  # noqa: E402

if len(sys.argv) > 2:
    safe_modprobe.__path__.append(sys.argv[2])

from safe_modprobe.admin.commands.main import parser as ctl_parser  # noqa: E402
from safe_modprobe.admin.policy import cases, json_schema  # noqa: E402
from safe_modprobe.model import Policy  # noqa: E402
from safe_modprobe.policy import schema  # noqa: E402
from safe_modprobe.policy.text import dump  # noqa: E402


def escape(text: str) -> str:
    """Return the text with scdoc's special characters escaped, at the start of a line too."""
    text = re.sub(r"([\\*_`])", r"\\\1", text)
    return re.sub(r"^([#|;\[\]\-.+])", r"\\\1", text)


def prose(text: str) -> str:
    """Convert a docstring or help text to scdoc: text in backquotes becomes bold, and paragraphs stay."""
    parts = re.split(r"`([^`\n]+)`", text)
    marked = "".join(f"*{escape(part)}*" if index % 2 else escape_inside(part) for index, part in enumerate(parts))
    # Each paragraph becomes one line. A wrapped line might begin with .modinfo, which roff would take for a macro.
    paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n", marked.strip())]
    return "\n\n".join(re.sub(r"^([#|;\[\]\-.+])", r"\\\1", each) for each in paragraphs)


def escape_inside(text: str) -> str:
    """Escape as escape() does, for text inside a line."""
    return re.sub(r"([\\*_])", r"\\\1", text)


def commands() -> Iterator[str]:
    """Yield the parts of every subcommand: its synopsis, purpose, options and examples."""
    for name, parser in subcommands().items():
        yield f"## {name}"
        yield f"*safe-modprobectl {name}* {' '.join(usage(action) for action in actions(parser))}".rstrip()
        about = re.sub(r"^`[^`]*`: *", "", parser.description or "")
        yield prose(about[:1].upper() + about[1:])
        yield from (option(parser, action) for action in actions(parser))
        yield f"Examples:\n\n{literal(parser.epilog or '')}"


def options() -> Iterator[str]:
    """Yield the options that stand before the subcommand."""
    parser = ctl_parser()
    yield from (option(parser, action) for action in actions(parser))


def subcommands() -> Mapping[str, argparse.ArgumentParser]:
    """Return the subcommands' parsers by name, in the order of --help."""
    for action in ctl_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    raise LookupError("safe-modprobectl has no subcommands")


def actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the arguments that --help shows, without the subcommands and -h."""
    hidden = (argparse._SubParsersAction, argparse._HelpAction)
    return [each for each in parser._actions if not isinstance(each, hidden) and each.help is not argparse.SUPPRESS]


def usage(action: argparse.Action) -> str:
    """Return the argument as the synopsis shows it."""
    value = f"_{escape(metavar(action))}_" if action.nargs != 0 else ""
    if not action.option_strings:
        return {"*": f"[{value}...]", "+": f"{value}...", "?": f"[{value}]"}.get(str(action.nargs), value)
    text = f"*{escape(action.option_strings[-1])}*" + (f" {value}" if value else "")
    return text if action.required else f"[{text}]"


def option(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return the argument as an item of a list."""
    value = f" _{escape(metavar(action))}_" if action.nargs != 0 and action.option_strings else ""
    names = ", ".join(f"*{escape(each)}*{value}" for each in action.option_strings)
    about = (action.help or "") % {**vars(action), "prog": parser.prog}
    return f"{names or f'_{escape(metavar(action))}_'}\n\t{prose(about)}"


def metavar(action: argparse.Action) -> str:
    """Return the placeholder of the argument's value."""
    if action.metavar is None and action.choices is not None:
        return "|".join(map(str, action.choices))
    return str(action.metavar or action.dest.upper())


def literal(epilog: str) -> str:
    """Return the examples of an epilog as a literal block, without their heading."""
    lines = epilog.removeprefix("examples:\n").rstrip().split("\n")
    shortest = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(["```", *[line[shortest:] for line in lines], "```"])


def keys(table: str) -> Iterator[str]:
    """Yield the keys of a table of the policy, with the descriptions of json_schema.py."""
    defaults = tomli.loads(dump(Policy())).get(table, {})
    for key, check in schema.KEYS[table].items():
        about = prose(json_schema.DESCRIPTIONS[table][key])
        default = f" Default: {prose(json.dumps(defaults[key]))}." if key in defaults else ""
        yield f"*{escape(key)}* = {value(check)}\n\t{about}{default}"


def case_keys(table: str) -> Iterator[str]:
    """Yield the keys of a table of a test file."""
    for key, check in cases.KEYS[table].items():
        written, about = CASE_KEYS[table, key]
        yield f"*{escape(key)}* = {written or value(check)}\n\t{prose(about)}"


def value(check: schema.Check) -> str:
    """Return the values that a check accepts, in scdoc."""
    if check in KINDS:
        return KINDS[check]
    part = schema.CHECK_PARTS[check]
    if not callable(part):
        return " | ".join(f'_"{escape(str(word))}"_' for word in part)
    return f"[{value(part)}, ...]"


KINDS: Mapping[schema.Check, str] = {
    schema.flag: "_true_ | _false_",
    schema.string: "_text_",
    schema.pattern: "_pattern_",
    schema.capability: "_capability_",
    schema.privilege: '_true_ | _false_ | _capability_ | _"marker"_',
    schema.user: "_user_",
    schema.group: "_group_",
}

_CALLERS = "_caller_ | [_caller_, ...]"

CASE_KEYS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("case", "name"): ("", "A name for the case; default: the request and the caller."),
    ("case", "request"): (
        "_alias_ | [_alias_, ...]",
        "The alias that the kernel requests. Each alias is a case of its own.",
    ),
    ("case", "kernel_args"): (
        "[_argument_, ...]",
        "The arguments of a patched kernel. If they name a caller, that caller counts.",
    ),
    ("case", "modules"): (
        "[_module_, ...]",
        "The modules that would be inserted, dependencies first; the case then runs on any kernel. Default: what the "
        "running kernel needs. A name, or a table, see below.",
    ),
    ("case", "caller"): (
        _CALLERS,
        "The caller: a table, a name of [callers], or `unknown`. Each caller is a case of its own.",
    ),
    ("case", "beside"): (_CALLERS, "Other callers that wait for the same alias at that moment."),
    ("case", "verdict"): ("", "The expected verdict on the whole request."),
    ("case", "origin"): (
        "_file_ | _file:line_",
        "The place in the policy that must have decided, as the log and `explain` show it.",
    ),
    ("case", "skipped"): ("[_name_, ...]", "Exactly the soft dependencies that must be skipped."),
    ("case", "quiet"): ("", "Whether the log has no record of it."),
    ("modules", "name"): ("_name_", "The module's name. The last module is the target of the alias."),
    ("modules", "marker"): (
        '_"Y"_ | _"N"_ | _capability_',
        "The value of privileged= in its .modinfo; default: no marker.",
    ),
    ("modules", "soft"): ("", "true: it is a soft dependency of the last module."),
    ("modules", "registers_filesystem"): (
        "",
        "Whether it registers a file system, which grsecurity's check of fs-* requests tests; default: true.",
    ),
    ("caller", "uid"): ("", "The real user id, or a name of /etc/passwd."),
    ("caller", "euid"): ("", "The effective user id; default: the real one."),
    ("caller", "groups"): ("", "Default: none."),
    ("caller", "capabilities"): (
        "",
        "The effective capabilities; default: all for an effective uid of 0, and none for others.",
    ),
    ("caller", "user_namespace"): ("", "Default: the initial one. In any other, capabilities do not count."),
    ("caller", "no_new_privs"): ("", "Default: false."),
    ("caller", "kernel_thread"): ("", "Default: false. A kernel thread needs no uid."),
    ("caller", "unit"): ("", "The systemd unit; default: none, as for the next two keys."),
    ("caller", "executable"): ("_path_", "The program."),
    ("caller", "call_site"): ("_function_", "The kernel function that makes the request."),
    ("caller", "source"): (
        "",
        "The source that named the caller; default: tracefs. One allowed caller of several is enough, except for proc.",
    ),
    ("caller", "behind"): (_CALLERS, "The tasks that a kernel thread may be working for."),
}

PARTS: Mapping[str, Callable[..., Iterator[str]]] = {
    "OPTIONS": options,
    "COMMANDS": commands,
    "KEYS": keys,
    "CASE": case_keys,
}


def filled(source: str) -> str:
    """Return the source with each `@PART argument@` line replaced by generated text."""

    def part(match: re.Match[str]) -> str:
        name, *arguments = match[1].split()
        return "\n\n".join(PARTS[name](*arguments))

    return re.sub(r"^@(.+)@$", part, source, flags=re.MULTILINE)


def tidied(roff: str) -> str:
    """Remove the empty paragraphs that scdoc leaves around headings and items; mandoc warns of them."""
    kept: list[str] = []
    for line in roff.split("\n"):
        if kept and kept[-1] == ".P" and (not line or line.startswith(_NO_TEXT)):
            kept.pop()
        if not (line == ".P" and kept and kept[-1].startswith(_HEADINGS)):
            kept.append(line)
    return "\n".join(kept)


_HEADINGS = (".SH", ".SS")
_NO_TEXT = (*_HEADINGS, ".P", ".RE")


def main(folder: Path) -> None:
    """Write every page into the folder. Raises CalledProcessError if scdoc fails; it prints the reason."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(HERE.glob("*.scd")):
        text = filled(source.read_text())
        (folder / source.name).write_text(text)
        done = subprocess.run(["scdoc"], input=text, stdout=subprocess.PIPE, text=True, check=True)
        (folder / source.stem).write_text(tidied(done.stdout))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The manual: what is written by hand here, and what the program itself knows filled in, by scdoc.

    generate.py FOLDER [EXTENSIONS]

writes the pages into FOLDER, and their sources as they were given to scdoc. A line `@...@` of a source here stands
for a part that is generated, so that --help, the parsers and the manual cannot differ. EXTENSIONS is where
`make build` left the compiled part of the package, if not in it.
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
    """Text that scdoc takes as it is."""
    text = re.sub(r"([\\*_`])", r"\\\1", text)
    return re.sub(r"^([#|;\[\]\-.+])", r"\\\1", text)


def prose(text: str) -> str:
    """A docstring or help text: what stands in backquotes is bold, paragraphs stay."""
    parts = re.split(r"`([^`\n]+)`", text)
    marked = "".join(f"*{escape(part)}*" if index % 2 else escape_inside(part) for index, part in enumerate(parts))
    # A paragraph is a line: broken anew it might begin with .modinfo, which scdoc hands on and roff takes for a macro.
    paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n", marked.strip())]
    return "\n\n".join(re.sub(r"^([#|;\[\]\-.+])", r"\\\1", each) for each in paragraphs)


def escape_inside(text: str) -> str:
    """As escape(), within a line."""
    return re.sub(r"([\\*_])", r"\\\1", text)


def commands() -> Iterator[str]:
    """Every subcommand: what it is for, how it is called, its options and examples."""
    for name, parser in subcommands().items():
        yield f"## {name}"
        yield f"*safe-modprobectl {name}* {' '.join(usage(action) for action in actions(parser))}".rstrip()
        about = re.sub(r"^`[^`]*`: *", "", parser.description or "")
        yield prose(about[:1].upper() + about[1:])
        yield from (option(parser, action) for action in actions(parser))
        yield f"Examples:\n\n{literal(parser.epilog or '')}"


def options() -> Iterator[str]:
    """What stands before the subcommand."""
    parser = ctl_parser()
    yield from (option(parser, action) for action in actions(parser))


def subcommands() -> Mapping[str, argparse.ArgumentParser]:
    """By name, in the order of --help."""
    for action in ctl_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    raise LookupError("safe-modprobectl has no subcommands")


def actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments that --help shows, without the subcommands and -h itself."""
    hidden = (argparse._SubParsersAction, argparse._HelpAction)
    return [each for each in parser._actions if not isinstance(each, hidden) and each.help is not argparse.SUPPRESS]


def usage(action: argparse.Action) -> str:
    """The argument in the synopsis."""
    value = f"_{escape(metavar(action))}_" if action.nargs != 0 else ""
    if not action.option_strings:
        return {"*": f"[{value}...]", "+": f"{value}...", "?": f"[{value}]"}.get(str(action.nargs), value)
    text = f"*{escape(action.option_strings[-1])}*" + (f" {value}" if value else "")
    return text if action.required else f"[{text}]"


def option(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """The argument as an item of a list."""
    value = f" _{escape(metavar(action))}_" if action.nargs != 0 and action.option_strings else ""
    names = ", ".join(f"*{escape(each)}*{value}" for each in action.option_strings)
    about = (action.help or "") % {**vars(action), "prog": parser.prog}
    return f"{names or f'_{escape(metavar(action))}_'}\n\t{prose(about)}"


def metavar(action: argparse.Action) -> str:
    """What stands for the value."""
    if action.metavar is None and action.choices is not None:
        return "|".join(map(str, action.choices))
    return str(action.metavar or action.dest.upper())


def literal(epilog: str) -> str:
    """The examples of an epilog, without their heading."""
    lines = epilog.removeprefix("examples:\n").rstrip().split("\n")
    shortest = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(["```", *[line[shortest:] for line in lines], "```"])


def keys(table: str) -> Iterator[str]:
    """The keys of one of the policy's tables, as json_schema.py describes them for editors."""
    defaults = tomli.loads(dump(Policy())).get(table, {})
    for key, check in schema.KEYS[table].items():
        about = prose(json_schema.DESCRIPTIONS[table][key])
        default = f" Default: {prose(json.dumps(defaults[key]))}." if key in defaults else ""
        yield f"*{escape(key)}* = {value(check)}\n\t{about}{default}"


def case_keys(table: str) -> Iterator[str]:
    """The keys of a test's tables."""
    for key, check in cases.KEYS[table].items():
        written, about = CASE_KEYS[table, key]
        yield f"*{escape(key)}* = {written or value(check)}\n\t{prose(about)}"


def value(check: schema.Check) -> str:
    """What may stand there."""
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
    ("case", "name"): ("", "What the case is about; default: the request and the caller."),
    ("case", "request"): ("_alias_ | [_alias_, ...]", "What the kernel asks for. Each is a case of its own."),
    ("case", "kernel_args"): (
        "[_argument_, ...]",
        "What a patched kernel adds; where it names a caller, that one counts.",
    ),
    ("case", "modules"): (
        "[_module_, ...]",
        "What would have to be inserted, dependencies first: the case then runs on any kernel. Default: what the "
        "kernel at hand needs. A name, or a table, see below.",
    ),
    ("case", "caller"): (_CALLERS, "Who asks: a table, a name of [callers], or `unknown`. Each is a case of its own."),
    ("case", "beside"): (_CALLERS, "Who else waits for the same alias at that moment."),
    ("case", "verdict"): ("", "What is expected of the request as a whole."),
    ("case", "origin"): (
        "_file_ | _file:line_",
        "The place of the policy that has to have decided, as the log and `explain` show it.",
    ),
    ("case", "skipped"): ("[_name_, ...]", "The soft dependencies that have to be left out, no more and no less."),
    ("case", "quiet"): ("", "Whether it goes without a record in the log."),
    ("modules", "name"): ("_name_", "The module's name. The last module is the target of the request."),
    ("modules", "marker"): (
        '_"Y"_ | _"N"_ | _capability_',
        "privileged=... of its .modinfo; default: there is none.",
    ),
    ("modules", "soft"): ("", "true: the last one can do without it (a soft dependency)."),
    ("modules", "registers_filesystem"): ("", "What grsecurity's check of fs-* requests looks for; default: true."),
    ("caller", "uid"): ("", "The real user id, or a name of /etc/passwd."),
    ("caller", "euid"): ("", "The effective one; default: the same."),
    ("caller", "groups"): ("", "Default: none."),
    ("caller", "capabilities"): (
        "",
        "The effective ones; default: all for an effective uid of 0, and none for others.",
    ),
    ("caller", "user_namespace"): ("", "Default: the initial one. In another, capabilities do not count."),
    ("caller", "no_new_privs"): ("", "Default: false."),
    ("caller", "kernel_thread"): ("", "Default: false. true needs no uid."),
    ("caller", "unit"): ("", "The systemd unit; default: none that is known, as for the next two."),
    ("caller", "executable"): ("_path_", "The program."),
    ("caller", "call_site"): ("_function_", "The function of the kernel that asks."),
    ("caller", "source"): (
        "",
        "Who said so; default: tracefs. Of several callers, one who may is enough, but not by proc.",
    ),
    ("caller", "behind"): (_CALLERS, "For whom a kernel thread may be working."),
}

PARTS: Mapping[str, Callable[..., Iterator[str]]] = {
    "OPTIONS": options,
    "COMMANDS": commands,
    "KEYS": keys,
    "CASE": case_keys,
}


def filled(source: str) -> str:
    """The source with its `@PART argument@` lines replaced."""

    def part(match: re.Match[str]) -> str:
        name, *arguments = match[1].split()
        return "\n\n".join(PARTS[name](*arguments))

    return re.sub(r"^@(.+)@$", part, source, flags=re.MULTILINE)


def tidied(roff: str) -> str:
    """Without the empty paragraphs that scdoc leaves around headings and items, of which mandoc warns."""
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
    """Write every page. Raises CalledProcessError, after scdoc said what is wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(HERE.glob("*.scd")):
        text = filled(source.read_text())
        (folder / source.name).write_text(text)
        done = subprocess.run(["scdoc"], input=text, stdout=subprocess.PIPE, text=True, check=True)
        (folder / source.stem).write_text(tidied(done.stdout))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

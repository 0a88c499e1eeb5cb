"""safe-modprobectl as a whole: subcommands load separately, and every failure is one sentence."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from safe_modprobe.admin.commands.main import COMMANDS, parser
from safe_modprobe.policy.files import check_parser_installed

TOP = Path(__file__).resolve().parents[4]


CODE = "from safe_modprobe.admin.commands.main import main\nsys.exit(main(sys.argv[1:]))"


def ctl(*arguments: str, before: str = "") -> tuple[int, str, str]:
    code = f"import sys; {before}\n{CODE}"
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=TOP, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_every_subcommand_has_its_own_file() -> None:
    folder = TOP / "safe_modprobe/admin/commands"
    assert {path.stem for path in folder.glob("*.py") if "def add_parser" in path.read_text()} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_subcommand_loaded_alone_has_the_same_help(command: str) -> None:
    (every,) = [action.choices for action in parser()._actions if action.choices]
    (alone,) = [action.choices for action in parser([command])._actions if action.choices]
    assert every[command].format_help() == alone[command].format_help()


SIZES = ["", "x", "-3", "0", "1", "60", "\u0663", "\u00b2", "9" * 5000]
"""Values of COLUMNS and LINES: numbers, characters that str.isdigit() accepts, and more digits than int() accepts."""


@pytest.mark.parametrize("columns", SIZES)
def test_help_works_with_any_value_of_columns(columns: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{CODE}", "enable", "--help"],
        cwd=TOP, capture_output=True, text=True, env={"COLUMNS": columns, "PATH": "/usr/bin"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage: safe-modprobectl"), done.stderr[
        -300:
    ]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_a_table_is_shown_for_any_terminal_size(size: str, terminal: bool) -> None:
    code = "from safe_modprobe.admin.commands.output import print_table; print_table(('module',), [('af_alg',)])"
    master, slave = pty.openpty()
    with open(master, "rb", 0) as screen, open(slave, "wb", 0) as tty:
        os.set_blocking(master, False)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=TOP, stdin=tty, stdout=tty if terminal else subprocess.PIPE,
            stderr=subprocess.PIPE, env={"COLUMNS": size, "LINES": size, "PATH": "/usr/bin", "TERM": "xterm"},
        )  # fmt: skip
        shown = screen.read(65536) if terminal else done.stdout
    assert (done.returncode, done.stderr) == (0, b"") and b"af_alg" in b"".join((shown or b"").split())


def test_a_subcommand_works_while_another_is_broken() -> None:
    broken = "sys.modules['safe_modprobe.admin.commands.surface'] = None"
    code, out, err = ctl("disable", "--help", before=broken)
    assert (code, err) == (0, "") and out.startswith("usage: safe-modprobectl disable")
    assert ctl("surface", "--help", before=broken)[0] == 1


STARTS = {
    "enable": {"datetime", "elftools", "hashlib", "json", "rich", "shutil", "socket", "tomli", "typing"},
    "disable": {"datetime", "elftools", "hashlib", "json", "rich", "shutil", "socket", "tomli", "typing"},
    "status": {"elftools", "hashlib", "json", "rich", "shutil", "tomli", "typing"},
    "explain": {"elftools", "hashlib", "json", "rich", "shutil", "tomli"},
}
"""Modules that a subcommand must not import at its start. A later step imports what it needs."""


@pytest.mark.parametrize("command", STARTS)
def test_a_subcommand_does_not_import_rarely_needed_modules_at_start(command: str) -> None:
    arguments = {"explain": ["net-pf-38"]}.get(command, [])
    code = f"""if True:
        import sys
        from safe_modprobe.admin.commands.main import parser
        parser([{command!r}]).parse_args([{command!r}, *{arguments!r}])
        print(*sys.modules)
    """
    done = subprocess.run(["/usr/bin/python3", "-IBS", "-c", f"import sys; sys.path.append({str(TOP)!r})\n{code}"],
        capture_output=True, text=True, check=True)  # fmt: skip
    imported = set(done.stdout.split())
    assert f"safe_modprobe.admin.commands.{command}" in imported and imported & STARTS[command] == set()


ROWS = [
    (("explian",), 2, "invalid choice: 'explian' (choose from "),
    ((), 2, "the following arguments are required: COMMAND"),
    (("explain",), 2, "one of the arguments ALIAS --last --event is required"),
    (("reload", "--nonsense"), 2, "unrecognized arguments: --nonsense"),
]


@pytest.mark.parametrize(("arguments", "status", "says"), ROWS)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], status: int, says: str) -> None:
    code, out, err = ctl(*arguments)
    assert (code, out) == (status, "") and says in err and "Traceback" not in err, err


@pytest.mark.parametrize("there", [True, False])
def test_a_missing_toml_parser_is_found_despite_the_policy_cache(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    if there:
        check_parser_installed()
    else:
        monkeypatch.setitem(sys.modules, "tomli", None)
        with pytest.raises(ModuleNotFoundError, match="No module named 'tomli'"):
            check_parser_installed()


def test_a_missing_library_is_named() -> None:
    code, out, err = ctl("reload", before="sys.modules['tomli'] = None")
    assert (code, out) == (1, "")
    assert err == ("safe-modprobectl: the Python module tomli is missing; install it (Debian package python3-tomli)\n")


FULL = "safe-modprobectl: No space left on device\n"
STREAMS = [
    ("check --root {empty}", ">&-", 0, ""),
    ("check --root {empty} --json", "<&- >&-", 0, ""),
    ("check --root {empty}", ">&- 2>&-", 0, ""),
    ("check /nosuch.toml", ">&-", 1, ""),
    ("check --root /nosuch", "2>&-", 1, ""),
    ("reload --nonsense", "<&- >&- 2>&-", 2, ""),
    ("check --root {empty}", ">/dev/full", 1, FULL),
    ("check --root {empty} --json", ">/dev/full", 1, FULL),
    ("check --schema", ">/dev/full", 1, FULL),
    ("--help", ">/dev/full", 1, FULL),
    ("check --help", ">/dev/full", 1, FULL),
    ("--version", ">/dev/full", 1, FULL),
]


@pytest.mark.parametrize(("arguments", "streams", "status", "says"), STREAMS)
def test_closed_and_full_standard_streams(tmp_path: Path, arguments: str, streams: str, status: int, says: str) -> None:
    command = f'exec "$0" -c "$1" {arguments.format(empty=tmp_path)} {streams}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, f"import sys\n{CODE}"], cwd=TOP, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", says)


def test_characters_that_the_locale_lacks_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "ж.toml").write_text("[[rule]]\n")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{CODE}", "check", str(tmp_path)],
        cwd=TOP, capture_output=True, text=True, env={"PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "") and done.stdout.startswith(
        f"{tmp_path}/\\u0436.toml:1: rule: "
    ), done


def test_no_opened_file_gets_the_number_of_a_standard_stream() -> None:
    code = "import sys; from safe_modprobe.admin.commands.main import main; main(['check', '--root', '/nosuch'])"
    code += "; sys.exit(open('/dev/zero').fileno() < 3)"
    done = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code], cwd=TOP)
    assert done.returncode == 0

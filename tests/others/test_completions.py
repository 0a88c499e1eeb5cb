"""Test the completions in real shells at a terminal: type a part of a line, press TAB, and read the line."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SECONDS = 20


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("completions")
    subprocess.run([sys.executable, TOP / "packaging/completions.py", into], check=True)
    return into


@pytest.mark.parametrize(
    ("shell", "name"), [("bash", "safe-modprobectl"), ("zsh", "_safe-modprobectl"), ("fish", "safe-modprobectl.fish")]
)
def test_the_shell_parses_the_completions(completions: Path, shell: str, name: str) -> None:
    done = subprocess.run([shell, "-n", completions / shell / name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


START = {
    "bash": (["bash", "--norc", "-i"], "source {folder}/bash/safe-modprobectl"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "fpath=({folder}/zsh $fpath); autoload -U compinit; compinit -u -d {folder}/zcompdump",
    ),
}
PRINT_LINE = "safe-modprobectl() { printf '<%s>\\n' \"$*\"; }"
"""A shell function in place of the command. It prints the line that the shell completed."""

LINES = [
    ("expl", "explain"),
    ("explain x --user-n", "explain x --user-namespace"),
    ("explain x --cap CAP_NET_A", "explain x --cap CAP_NET_ADMIN"),
    ("explain --nonsen", "explain --nonsen"),
]


@pytest.mark.parametrize("shell", START)
@pytest.mark.parametrize(("typed", "becomes"), LINES)
def test_tab_completes_a_line(completions: Path, shell: str, typed: str, becomes: str) -> None:
    command, before = START[shell]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, {"PATH": os.environ["PATH"], "HOME": str(completions), "TERM": "xterm"})
    try:
        os.write(terminal, f"{before.format(folder=completions)}; {PRINT_LINE}; echo re''ady\n".encode())
        assert b"ready" in read_until(terminal, b"ready")
        os.write(terminal, f"safe-modprobectl {typed}\t\n".encode())
        assert f"<{becomes}>".encode() in read_until(terminal, b">\r\n")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def read_until(terminal: int, word: bytes) -> bytes:
    """Return the terminal's output up to this word, or all output if the word does not come in time."""
    output, end = b"", time.monotonic() + SECONDS
    while word not in output and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            output += os.read(terminal, 65536)
    return output


@pytest.mark.parametrize(
    ("typed", "offered"), [("expl", ["explain"]), ("explain --user-n", ["--user-namespace"]), ("nonsense", [])]
)
def test_fish_offers_completions(completions: Path, typed: str, offered: list[str]) -> None:
    code = f"source {completions}/fish/safe-modprobectl.fish; complete -C 'safe-modprobectl {typed}'"
    env = {**os.environ, "HOME": str(completions), "XDG_CONFIG_HOME": str(completions)}
    done = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True, env=env)
    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == offered

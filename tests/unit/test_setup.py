"""The set-up waits for apt's locks and names the command that failed: the real apt-get, in folders of the test's own."""

import fcntl
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vm.cache import run_again

APT_GET = Path(__file__).resolve().parents[1] / "apt-get"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state of apt's own: no lock and no source of the machine's counts."""
    for folder in ("etc", "state/lists/partial", "cache/archives/partial", "log"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "state/status").touch()
    settings = {
        "Dir::Etc": "etc", "Dir::State": "state", "Dir::State::status": "state/status", "Dir::Cache": "cache",
        "Dir::Log": "log",
    }  # fmt: skip
    lines = [f'{key} "{tmp_path / value}";\n' for key, value in settings.items()]
    (tmp_path / "apt.conf").write_text("".join(lines) + 'APT::Sandbox::User "root";\n')
    return tmp_path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock as apt does: a POSIX record lock on the whole file."""
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def apt_get(state: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"PATH": os.environ["PATH"], "APT_CONFIG": str(state / "apt.conf"), **environment}
    return subprocess.run([APT_GET, *command], env=own, capture_output=True, text=True)


def test_it_waits_until_another_program_releases_the_lock(state: Path) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(state / "state/lists/lock"):
            held.set()
            release.wait()

    # A lock of this process's own would not count for its threads, but it does for apt-get, which is another process.
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    timer = threading.Timer(1.5, release.set)
    timer.start()
    try:
        done = apt_get(state, "update")
    finally:
        release.set()
        holder.join()
        timer.cancel()
    assert (done.returncode, done.stderr) == (0, "  waiting for another program that holds apt's lock …\n"), done.stdout


@pytest.mark.parametrize(
    ("lock", "command"),
    [("state/lists/lock", ["update"]), ("cache/archives/lock", ["clean"])],
    ids=["lists", "archives"],
)
def test_a_lock_that_stays_is_named_with_the_command(state: Path, lock: str, command: list[str]) -> None:
    with locked(state / lock):
        done = apt_get(state, *command, APT_LOCK_SECONDS="0")
    assert done.returncode == 100
    assert done.stderr == f"apt-get {command[0]}: another program held apt's lock for 0 s; end it and try again\n"


def test_a_failed_download_is_tried_again_and_named(state: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port meanwhile
        port = closed.getsockname()[1]
        (state / "etc/sources.list").write_text(f"deb [trusted=yes] http://127.0.0.1:{port}/debian nosuch main\n")
        done = apt_get(state, "-o", "APT::Update::Error-Mode=any", "update", APT_TRIES="2")
    assert done.returncode == 100
    assert done.stderr == "apt-get -o APT::Update::Error-Mode=any update: failed 2 times, last with exit code 100\n"
    assert done.stdout.count("Could not connect") >= 2


def test_success_says_nothing(state: Path) -> None:
    done = apt_get(state, "update")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_a_builder_repeats_a_command_and_names_it(tmp_path: Path) -> None:
    """`run_again` clears what a failed try left, as mmdebstrap refuses a folder that is not empty."""
    script = f"mkdir {tmp_path}/out && test -e {tmp_path}/second || {{ touch {tmp_path}/second; false; }}"
    run_again(["sh", "-c", script], clear=tmp_path / "out")
    assert (tmp_path / "out").is_dir()
    with pytest.raises(SystemExit, match=r"^sh -c 'exit 7' exited with status 7; see \.cache/log/sh\.log$"):
        run_again(["sh", "-c", "exit 7"], tries=2, pause=0)

"""Keep outputs that take long to make in `.cache/`, each named by a digest of its inputs."""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
CACHE = TOP / ".cache"
APT_GET = TOP / "tests/apt-get"
"""apt-get that waits for locks and repeats failed downloads."""

ENVIRONMENT = dict(os.environ)
"""The environment at import. Guests are prepared while tests run, and tests and pytest change os.environ."""

Progress = Callable[[str], None]


def say(message: str) -> None:
    """Print one line of progress on standard error."""
    print(f"  {message}", file=sys.stderr, flush=True)


def digest(*parts: str | bytes | Path) -> str:
    """Return 16 hexadecimal digits that identify these inputs: texts as they are, files and folders by content."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            for path in sorted(part.rglob("*")) if part.is_dir() else [part]:
                if path.is_file() and "__pycache__" not in path.parts:
                    total.update(str(path.relative_to(part.parent)).encode() + path.read_bytes())
        else:
            total.update(part.encode() if isinstance(part, str) else part)
        total.update(b"\0")
    return total.hexdigest()[:16]


def cached(name: str, key: str, make: Callable[[Path], None], progress: Progress = say) -> Path:
    """Return the folder of output `name` for this digest of its inputs. If it is missing, `make(folder)` fills it.

    The folder appears only when it is complete. Outputs of the same name with other digests are removed.
    """
    final = CACHE / f"{name}-{key}"
    if final.exists():
        return final
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.exists():
            return final
        started = time.monotonic()
        progress(f"preparing {name} …")
        part = CACHE / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        make(part)
        for old in CACHE.glob(f"{name}-*"):
            if len(old.name) == len(final.name):
                shutil.rmtree(old)
        part.rename(final)
        progress(f"preparing {name}: {time.monotonic() - started:.0f} s")
    return final


def run(command: Sequence[str | Path], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command and return its standard output. Both outputs are appended to a file in .cache/log/.

    Raises SystemExit when the command fails.
    """
    name = Path(command[0]).name
    log = CACHE / "log" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        print("+", *command, file=file, flush=True)
        done = subprocess.run(
            command, cwd=cwd, env={**ENVIRONMENT, **(env or {})}, stdout=subprocess.PIPE, stderr=file, text=True
        )
        file.write(done.stdout)
    if done.returncode:
        words = " ".join(shlex.quote(str(word)) for word in command)
        raise SystemExit(f"{words} exited with status {done.returncode}; see {log.relative_to(TOP)}")
    return done.stdout


def run_again(
    command: Sequence[str | Path],
    clear: Path | None = None,
    tries: int = 3,
    pause: float = 5,
    env: dict[str, str] | None = None,
) -> str:
    """Run a command that downloads, up to `tries` times, with `pause` seconds between them.

    `clear` is the folder that the command makes; what a failed try left there is removed. Raises SystemExit like run().
    """
    for left in range(tries - 1, -1, -1):
        try:
            return run(command, env=env)
        except SystemExit:
            if not left:
                raise
        if clear is not None:
            shutil.rmtree(clear, ignore_errors=True)
        time.sleep(pause)
    raise AssertionError("tries must be at least 1")

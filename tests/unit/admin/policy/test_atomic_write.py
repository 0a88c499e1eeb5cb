"""A drop-in lands as a whole or not at all, one writer at a time."""

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from safe_modprobe.admin.policy.atomic_write import _make_folder, open_draft, remove
from safe_modprobe.errors import SafeModprobeError
from safe_modprobe.runtime import make_run_folder

OLD = b"# old\n"
NEW = b"# new, and longer\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "etc/policy.d"
    folder.mkdir(parents=True)
    (folder / "10-site.toml").write_bytes(OLD)
    return folder / "10-site.toml"


def land(path: Path, content: bytes = NEW, patience_s: float = 0) -> None:
    with open_draft(str(path), patience_s) as draft:
        draft.land(content)


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


@pytest.mark.parametrize(("mode", "after"), [(0o644, 0o644), (0o600, 0o600), (0o640, 0o640), (0o666, 0o644)])
def test_a_file_keeps_its_mode_but_for_what_others_may_write(path: Path, mode: int, after: int) -> None:
    path.chmod(mode)
    land(path)
    assert (path.read_bytes(), path.stat().st_mode & 0o7777, names(path)) == (NEW, after, ["10-site.toml"])


def test_a_new_file_in_new_folders_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "run/safe-modprobe/policy.d/00-trial.toml"
    before = os.umask(0o077)
    try:
        land(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == 0o644
    assert {parent.stat().st_mode & 0o7777 for parent in path.parents[:3]} == {0o755}


@pytest.mark.parametrize("make", [_make_folder, make_run_folder])
def test_no_folder_is_anybodys_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[str], None]
) -> None:
    """Who makes another one in it meanwhile has whatever root puts there."""
    monkeypatch.setattr(os, "chmod", lambda path, mode: None)
    before = os.umask(0)
    try:
        make(str(tmp_path / "run"))
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o7777 == 0o755


def test_readers_see_the_old_file_until_the_new_one_is_whole(path: Path) -> None:
    with open_draft(str(path)) as draft:
        assert path.read_bytes() == OLD
        assert (path.parent / ".10-site.toml.new").stat().st_mode & 0o777 == 0o600
        held = path.open("rb")
        draft.land(NEW)
        assert path.read_bytes() == NEW
    assert held.read() == OLD
    held.close()


def test_what_does_not_land_leaves_nothing(path: Path) -> None:
    with pytest.raises(KeyError), open_draft(str(path)):
        raise KeyError
    assert (path.read_bytes(), names(path)) == (OLD, ["10-site.toml"])


def test_what_a_crash_left_behind_stands_in_nobodys_way(path: Path) -> None:
    left = path.parent / ".10-site.toml.new"
    left.write_bytes(b"# a half-written file that is longer than what comes\n" * 9)
    land(path)
    assert (path.read_bytes(), names(path)) == (NEW, ["10-site.toml"])


def test_writers_take_turns_and_nothing_is_lost(path: Path) -> None:
    path.write_bytes(b"")

    def add(name: int) -> None:
        for _ in range(5):
            with open_draft(str(path)) as draft:
                draft.land(path.read_bytes() + b"%d\n" % name)

    threads = [threading.Thread(target=add, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.read_bytes().split()) == sorted(b"%d" % name for name in range(6) for _ in range(5))
    assert names(path) == ["10-site.toml"]


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/pass\nwd")


def mask(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def file_for_a_folder(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("")


def linked_draft(path: Path) -> None:
    (path.parent / ".10-site.toml.new").symlink_to(path)


def folder_for_a_draft(path: Path) -> None:
    (path.parent / ".10-site.toml.new").mkdir()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (link, r"it is a link to /etc/pass\nwd, which is not followed; nothing was changed, remove the link or edit what it leads to"),
        (mask, "it is a link to /dev/null, which is not followed; nothing was changed, remove the link or edit what it leads to"),
        (folder, "it is not a file; nothing was changed, remove it"),
        (file_for_a_folder, "it cannot be written: File exists; nothing was changed"),
        (linked_draft, "it cannot be written: Too many levels of symbolic links; nothing was changed"),
        (folder_for_a_draft, "it cannot be written: Is a directory; nothing was changed"),
    ],
)  # fmt: skip
def test_what_is_no_place_for_a_drop_in(path: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    spoil(path)
    with pytest.raises(SafeModprobeError) as caught:
        land(path)
    assert str(caught.value) == f"{path}: {sentence}"


def test_a_writer_that_never_ends_is_not_waited_for_forever(path: Path) -> None:
    with open_draft(str(path)), pytest.raises(SafeModprobeError) as caught:
        land(path, patience_s=0.1)
    assert str(caught.value) == (
        f"{path}: another safe-modprobectl has been writing it for 0.1 s; nothing was changed, try again"
    )
    land(path)
    assert path.read_bytes() == NEW


def test_a_file_system_that_takes_no_files() -> None:
    # /proc takes no files from anybody.
    with pytest.raises(SafeModprobeError) as caught:
        land(Path("/proc/self/10-site.toml"))
    assert str(caught.value) == (
        "/proc/self/10-site.toml: it cannot be written: No such file or directory; nothing was changed"
    )


def test_nobodys_lock_on_the_drop_in_itself_matters(path: Path) -> None:
    # Any user may open the drop-in and lock it.
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        land(path)
    assert path.read_bytes() == NEW


def test_remove(path: Path) -> None:
    assert remove(str(path))
    assert not remove(str(path))
    path.mkdir()
    with pytest.raises(SafeModprobeError, match="it cannot be written: Is a directory; nothing was changed$"):
        remove(str(path))

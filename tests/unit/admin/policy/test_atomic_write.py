"""A drop-in is written atomically, by one writer at a time."""

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


def write(path: Path, content: bytes = NEW, timeout_s: float = 0) -> None:
    with open_draft(str(path), timeout_s) as draft:
        draft.commit(content)


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


@pytest.mark.parametrize(("mode", "after"), [(0o644, 0o644), (0o600, 0o600), (0o640, 0o640), (0o666, 0o644)])
def test_a_file_keeps_its_mode_except_write_access_for_others(path: Path, mode: int, after: int) -> None:
    path.chmod(mode)
    write(path)
    assert (path.read_bytes(), path.stat().st_mode & 0o7777, names(path)) == (NEW, after, ["10-site.toml"])


def test_new_file_and_folders_get_their_modes_regardless_of_umask(tmp_path: Path) -> None:
    path = tmp_path / "run/safe-modprobe/policy.d/00-trial.toml"
    before = os.umask(0o077)
    try:
        write(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == 0o644
    assert {parent.stat().st_mode & 0o7777 for parent in path.parents[:3]} == {0o755}


@pytest.mark.parametrize("make", [_make_folder, make_run_folder])
def test_a_folder_is_never_writable_by_others_while_it_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[str], None]
) -> None:
    """A user who could create a folder inside in the meantime would own what root puts there later."""
    monkeypatch.setattr(os, "chmod", lambda path, mode: None)
    before = os.umask(0)
    try:
        make(str(tmp_path / "run"))
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o7777 == 0o755


def test_readers_see_the_old_file_until_commit(path: Path) -> None:
    with open_draft(str(path)) as draft:
        assert path.read_bytes() == OLD
        assert (path.parent / ".10-site.toml.new").stat().st_mode & 0o777 == 0o600
        held = path.open("rb")
        draft.commit(NEW)
        assert path.read_bytes() == NEW
    assert held.read() == OLD
    held.close()


def test_a_draft_without_commit_leaves_nothing(path: Path) -> None:
    with pytest.raises(KeyError), open_draft(str(path)):
        raise KeyError
    assert (path.read_bytes(), names(path)) == (OLD, ["10-site.toml"])


def test_a_draft_left_by_a_crash_does_not_block_the_next_writer(path: Path) -> None:
    left = path.parent / ".10-site.toml.new"
    left.write_bytes(b"# a half-written file that is longer than what comes\n" * 9)
    write(path)
    assert (path.read_bytes(), names(path)) == (NEW, ["10-site.toml"])


def test_concurrent_writers_lose_no_update(path: Path) -> None:
    path.write_bytes(b"")

    def add(name: int) -> None:
        for _ in range(5):
            with open_draft(str(path)) as draft:
                draft.commit(path.read_bytes() + b"%d\n" % name)

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
        (link, r"it is a link to /etc/pass\nwd, and links are not followed; nothing was changed; remove the link or edit its target"),
        (mask, "it is a link to /dev/null, and links are not followed; nothing was changed; remove the link or edit its target"),
        (folder, "it is not a file; nothing was changed, remove it"),
        (file_for_a_folder, "it cannot be written: File exists; nothing was changed"),
        (linked_draft, "it cannot be written: Too many levels of symbolic links; nothing was changed"),
        (folder_for_a_draft, "it cannot be written: Is a directory; nothing was changed"),
    ],
)  # fmt: skip
def test_a_path_that_cannot_hold_a_drop_in_is_an_error(
    path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(path)
    with pytest.raises(SafeModprobeError) as caught:
        write(path)
    assert str(caught.value) == f"{path}: {sentence}"


def test_waiting_for_another_writer_times_out(path: Path) -> None:
    with open_draft(str(path)), pytest.raises(SafeModprobeError) as caught:
        write(path, timeout_s=0.1)
    assert str(caught.value) == (
        f"{path}: another safe-modprobectl has been writing it for 0.1 s; nothing was changed, try again"
    )
    write(path)
    assert path.read_bytes() == NEW


def test_a_file_system_that_cannot_create_files() -> None:
    # Nobody can create a file in /proc.
    with pytest.raises(SafeModprobeError) as caught:
        write(Path("/proc/self/10-site.toml"))
    assert str(caught.value) == (
        "/proc/self/10-site.toml: it cannot be written: No such file or directory; nothing was changed"
    )


def test_a_users_lock_on_the_drop_in_itself_does_not_block_writing(path: Path) -> None:
    # Any user may open the drop-in and lock it.
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write(path)
    assert path.read_bytes() == NEW


def test_remove(path: Path) -> None:
    assert remove(str(path))
    assert not remove(str(path))
    path.mkdir()
    with pytest.raises(SafeModprobeError, match="it cannot be written: Is a directory; nothing was changed$"):
        remove(str(path))

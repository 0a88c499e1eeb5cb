"""The cached policy is used exactly as long as nothing that it depends on has changed."""

import marshal
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given

from safe_modprobe.model import Policy
from safe_modprobe.policy import cache
from safe_modprobe.policy.cache import cached_policy, snapshot
from safe_modprobe.policy.cache_write import save
from safe_modprobe.policy.files import read_policy
from safe_modprobe.policy.packed import SHAPE, pack, unpack
from tests.unit.policy.test_text import policies

SETTLED = 0.1
"""Seconds after which a second change gets a different timestamp, on a file system with fine timestamps."""

MARK = 'mark = [{ modules = ["m"], privileged = true }]\n'


class Place:
    """Two folders of drop-ins, and a cache that is filled as by the helper."""

    def __init__(self, top: Path) -> None:
        self.ours, self.admins = top / "lib", top / "etc"
        self.folders = [str(self.ours), str(self.admins)]
        self.cache = top / "run/policy.cache"
        for folder in (self.ours, self.admins):
            folder.mkdir()
        (self.ours / "50-a.toml").write_text(MARK)

    def fill(self, wait: float = SETTLED) -> bool:
        time.sleep(wait)
        before = snapshot(self.folders)
        return save(read_policy(self.folders), before, str(self.cache))

    def cached(self) -> Policy | None:
        return cached_policy(self.folders, str(self.cache))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Place]:
    """A function that returns a new filled place at each call. All places share one wait."""
    places = [Place(tmp_path_factory.mktemp("place")) for _ in range(len(CHANGES) + 4)]
    time.sleep(SETTLED)
    for place in places:
        assert place.fill(wait=0)
    return places.pop


def test_users_can_enter_the_caches_folder_but_not_read_the_cache(tmp_path: Path) -> None:
    """The drop-ins of this boot are beside the cache, and `explain` and a dry run by a user need them."""
    place = Place(tmp_path)
    before = os.umask(0o077)
    try:
        assert place.fill()
    finally:
        os.umask(before)
    assert place.cache.parent.stat().st_mode & 0o777 == 0o755
    assert place.cache.stat().st_mode & 0o777 & ~0o600 == 0


CHANGES: dict[str, Callable[[Place], object]] = {
    "an edit": lambda place: (place.ours / "50-a.toml").write_text(MARK.replace('"m"', '"n"')),
    "an edit that keeps size and mtime": lambda place: _rewrite(place.ours / "50-a.toml"),
    "a new name": lambda place: (place.admins / "10-b.toml").write_text(MARK),
    "a new mask": lambda place: (place.admins / "50-a.toml").symlink_to("/dev/null"),
    "a removed file": lambda place: (place.ours / "50-a.toml").unlink(),
    "a rename": lambda place: (place.ours / "50-a.toml").rename(place.ours / "51-a.toml"),
    "a mode": lambda place: (place.ours / "50-a.toml").chmod(0o666),
    "a folder's mode": lambda place: place.admins.chmod(0o777),
    "a removed folder": lambda place: place.admins.rmdir(),
    "no cache": lambda place: place.cache.unlink(),
    "a cache that others may write": lambda place: place.cache.chmod(0o622),
    "a link in the cache's place": lambda place: (
        place.cache.rename(f"{place.cache}.x"),
        place.cache.symlink_to("/dev/null"),
    ),
    "a folder in the cache's place": lambda place: (place.cache.unlink(), place.cache.mkdir()),
    "a cut cache": lambda place: place.cache.write_bytes(place.cache.read_bytes()[:-9]),
    "an empty cache": lambda place: place.cache.write_bytes(b""),
    "a text in the cache": lambda place: place.cache.write_bytes(b"policy = true\n"),
    "another value in the cache": lambda place: place.cache.write_bytes(marshal.dumps(7)),
    "another version's": lambda place: _repack(place, lambda all: (("0.0.0", *all[0][1:]), *all[1:])),
    "another shape's rows": lambda place: _repack(place, lambda all: (*all[:3], (1, 2))),
}


def _rewrite(path: Path) -> None:
    about = path.stat()
    path.write_text(MARK.replace('"m"', '"n"'))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def _repack(place: Place, change: Callable[[tuple[object, ...]], object]) -> None:
    place.cache.write_bytes(marshal.dumps(change(marshal.loads(place.cache.read_bytes()))))


@pytest.mark.parametrize("what", CHANGES)
def test_any_change_invalidates_the_cache(filled: Callable[[], Place], what: str) -> None:
    place = filled()
    assert place.cached() is not None
    CHANGES[what](place)
    assert place.cached() is None


def test_the_cached_policy_equals_the_parsed_one(filled: Callable[[], Place]) -> None:
    place = filled()
    assert place.cached() == read_policy(place.folders)
    assert place.cache.stat().st_mode & 0o777 == 0o600


def test_the_cache_is_not_used_for_other_folders(filled: Callable[[], Place]) -> None:
    place = filled()
    assert cached_policy(place.folders[::-1], str(place.cache)) is None


def test_a_change_of_etc_passwd_invalidates_the_cache(
    filled: Callable[[], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = filled()
    real = cache._state
    monkeypatch.setattr(cache, "_state", lambda path: None if path == "/etc/passwd" else real(path))
    assert place.cached() is None


def test_a_policy_that_changed_just_now_is_not_cached(tmp_path: Path) -> None:
    place = Place(tmp_path)
    file = place.ours / "50-a.toml"
    while True:  # A busy machine may need several tries to look within 5 ms of the change.
        file.write_text(MARK)
        before = snapshot(place.folders)
        if before.taken - file.stat().st_ctime_ns < 5_000_000:
            break
    assert not save(read_policy(place.folders), before, str(place.cache))
    assert place.cached() is None


STAMPS = {
    "in nanoseconds, a tick ago": (5_000_000_001, 5_004_000_000, False),
    "in nanoseconds, two steps ago": (5_000_000_001, 5_020_000_000, True),
    "in nanoseconds, after it": (5_000_000_001, 4_996_000_000, False),
    "in steps of 10 ms, a second ago": (5_010_000_000, 6_010_000_000, False),
    "in steps of 10 ms, three seconds ago": (5_010_000_000, 8_010_000_000, True),
    "in seconds, a second ago": (5_000_000_000, 6_999_999_999, False),
    "in seconds, two seconds ago": (5_000_000_000, 7_000_000_000, False),
    "in seconds, three seconds ago": (5_000_000_000, 8_000_000_000, True),
}
"""A file's st_ctime, the time of the snapshot, and whether the file's next change will show in its st_ctime."""


@pytest.mark.parametrize("what", STAMPS)
def test_a_file_that_may_change_within_one_timestamp_is_not_cached(tmp_path: Path, what: str) -> None:
    changed, taken, kept = STAMPS[what]
    place = Place(tmp_path)
    file = str(place.ours / "50-a.toml")
    state = (0, 0, 0, 0, changed, 0, 0)
    before = cache.Snapshot((file,), (state,), taken)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_state", lambda path: state)
        assert save(read_policy(place.folders), before, str(place.cache)) is kept


def test_edits_in_quick_succession_are_noticed(tmp_path: Path) -> None:
    """The edits come at the speed of the file system's clock and faster, and keep the file's size."""
    place = Place(tmp_path)
    kept = 0
    for number in range(60):
        name = f"m{number % 10}"
        (place.ours / "50-a.toml").write_text(MARK.replace('"m"', f'"{name}"'))
        time.sleep(number % 30 / 1000)
        policy = place.cached()
        if policy is None:
            kept += place.fill(wait=0)
        else:
            assert policy.marks[0].modules == (name,)
    assert 0 < kept < 60


def test_a_policy_that_changed_while_it_was_read_is_not_cached(tmp_path: Path) -> None:
    place = Place(tmp_path)
    time.sleep(SETTLED)
    before = snapshot(place.folders)
    policy = read_policy(place.folders)
    (place.ours / "50-a.toml").write_text(MARK.replace('"m"', '"n"'))
    assert not save(policy, before, str(place.cache))
    assert place.cached() is None


def test_a_cache_that_cannot_be_written_raises_nothing(filled: Callable[[], Place]) -> None:
    place = filled()
    place.cache.unlink()
    place.cache.parent.rmdir()
    place.cache.parent.write_text("a file")
    assert not save(
        read_policy(place.folders), snapshot(place.folders)._replace(taken=time.time_ns()), str(place.cache)
    )


@given(policies)
def test_packing_loses_nothing(policy: Policy) -> None:
    assert unpack(marshal.loads(marshal.dumps(pack(policy)))) == policy


def test_the_shape_names_every_field() -> None:
    assert "by_marker" in str(SHAPE) and "unknown_caller_privileged" in str(SHAPE)

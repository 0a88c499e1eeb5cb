"""Policy files on disk: their order, masks, owners and modes, and paths that are not files."""

import os
from pathlib import Path

import pytest

from safe_modprobe.errors import PolicyError
from safe_modprobe.model import Mode
from safe_modprobe.policy.accounts import Accounts, parse_numbers
from safe_modprobe.policy.builtin import BUILTIN_POLICY
from safe_modprobe.policy.dropins import effective_files
from safe_modprobe.policy.files import read_policy
from tests.unit.make import NoAccounts

MODE = "[settings]\nmode = '{}'\n"


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in ("lib", "run", "etc")]
    for each in made:
        each.mkdir(mode=0o755)
    return made


def mode(folders: list[Path]) -> Mode:
    return read_policy([str(each) for each in folders], NoAccounts()).settings.mode


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ([[], [], []], []),
        ([["b.toml", "a.toml"]], [("a.toml", 0), ("b.toml", 0)]),
        ([["a.toml"], [], ["a.toml"]], [("a.toml", 2)]),
        ([["50-a.toml"], ["10-b.toml"]], [("10-b.toml", 1), ("50-a.toml", 0)]),
        ([["a.conf", ".a.toml", "a.toml~", "README", "a.TOML"]], []),
    ],
)
def test_effective_files(names: list[list[str]], order: list[tuple[str, int]]) -> None:
    assert effective_files(names) == order


def test_later_folders_replace_and_lower_numbers_win(folders: list[Path]) -> None:
    (folders[0] / "50-a.toml").write_text(MODE.format("allowed"))
    assert mode(folders) is Mode.ALLOWED
    (folders[1] / "50-a.toml").write_text(MODE.format("privileged"))
    assert mode(folders) is Mode.PRIVILEGED
    (folders[2] / "50-a.toml").write_text(MODE.format("marked"))
    assert mode(folders) is Mode.MARKED
    (folders[0] / "10-b.toml").write_text(MODE.format("disabled"))
    assert mode(folders) is Mode.DISABLED


WITHOUT_DEFAULT_POLICY = [
    (["etc/10-site.toml"], True),
    (["etc/10-site.toml", "run/00-trial.toml", "run/09-until-reboot.toml"], True),
    (["run/00-trial.toml"], True),
    (["run/50-a.toml", "etc/10-site.toml"], False),
    ([], False),
]


@pytest.mark.parametrize(
    ("files", "broken"), WITHOUT_DEFAULT_POLICY, ids=[" ".join(files) for files, _ in WITHOUT_DEFAULT_POLICY]
)
def test_the_admins_rows_without_the_default_policy_are_an_error(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch, files: list[str], broken: bool
) -> None:
    """During an upgrade the package's folder may be missing. Its marked modules must stay refused meanwhile."""
    paths = [str(each) for each in folders]
    monkeypatch.setattr("safe_modprobe.policy.files.FOLDERS", paths)
    for file in files:
        (folders[0].parent / file).write_text(MODE.format("allowed"))
    read_policy(paths, NoAccounts())
    folders[0].rmdir()
    if broken:
        with pytest.raises(PolicyError, match="lib: the default policy is missing; reinstall the package$"):
            read_policy(paths, NoAccounts())
    else:
        assert read_policy(paths, NoAccounts()).settings.mode is (Mode.ALLOWED if files else Mode.PRIVILEGED)


def test_a_link_to_dev_null_masks(folders: list[Path]) -> None:
    (folders[0] / "50-a.toml").write_text(MODE.format("disabled"))
    (folders[0] / "60-b.toml").write_text(MODE.format("allowed"))
    (folders[2] / "50-a.toml").symlink_to("/dev/null")
    assert mode(folders) is Mode.ALLOWED


def test_a_link_to_a_file_is_followed(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "real").write_text(MODE.format("disabled"))
    (folders[2] / "50-a.toml").symlink_to(tmp_path / "real")
    assert mode(folders) is Mode.DISABLED


@pytest.mark.parametrize("there", [False, True])
def test_without_any_file_the_built_in_policy_applies(folders: list[Path], there: bool) -> None:
    assert read_policy([str(each) if there else f"{each}/none" for each in folders]) is BUILTIN_POLICY
    assert BUILTIN_POLICY.settings.mode is Mode.PRIVILEGED


def spoil_mode(path: Path) -> str:
    path.chmod(0o666)
    return "others may write it (mode 0666); chmod it to 0644"


def spoil_group(path: Path) -> str:
    path.chmod(0o664)
    return "others may write it (mode 0664); chmod it to 0644"


def spoil_owner(path: Path) -> str:
    os.chown(path, 1234, 0)
    return "it belongs to uid 1234; chown it to root"


def spoil_fifo(path: Path) -> str:
    path.unlink()
    os.mkfifo(path)
    return "it is not a file; a drop-in is one, or a link to /dev/null"


def spoil_device(path: Path) -> str:
    path.unlink()
    path.symlink_to("/dev/zero")
    return "it is not a file; a drop-in is one, or a link to /dev/null"


def spoil_folder(path: Path) -> str:
    path.unlink()
    path.mkdir()
    return "it is not a file; a drop-in is one, or a link to /dev/null"


def spoil_link(path: Path) -> str:
    path.unlink()
    path.symlink_to("nowhere")
    return "No such file or directory; fix or remove it"


def spoil_loop(path: Path) -> str:
    path.unlink()
    path.symlink_to(path.name)
    return "Too many levels of symbolic links; fix or remove it"


SPOILERS = [spoil_mode, spoil_group, spoil_owner, spoil_fifo, spoil_device, spoil_folder, spoil_link, spoil_loop]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_an_untrusted_file_invalidates_the_policy(folders: list[Path], spoil) -> None:  # type: ignore[no-untyped-def]
    path = folders[2] / "10-a.toml"
    path.write_text(MODE.format("allowed"))
    path.chmod(0o644)
    message = spoil(path)
    with pytest.raises(PolicyError) as error:
        mode(folders)
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize("bits", [0o777, 0o775, 0o757])
def test_a_folder_that_others_may_write_invalidates_the_policy(folders: list[Path], bits: int) -> None:
    folders[1].chmod(bits)
    with pytest.raises(PolicyError, match=f"run: others may write it .mode 0{bits:o}"):
        mode(folders)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (b"root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/:\n", {b"root": 0, b"bob": 1000}),
        (b"bob:x:1:\nbob:x:2:\n", {b"bob": 1}),
        (b"bob:x:-1:\n:x:1:\nbob\nbob:x\n+::::\nx:x:0x1:\n", {}),
        (b"\xff:x:7:7\n", {b"\xff": 7}),
        (b"big:x:" + b"9" * 5000 + b":7\n", {}),
    ],
)
def test_parse_numbers(text: bytes, numbers: dict[bytes, int]) -> None:
    assert parse_numbers(text) == numbers


def test_accounts_are_read_from_the_two_files_alone(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("bob:x:1000:1000::/:\n")
    (tmp_path / "g").write_text("audio:x:29:bob\n")
    accounts = Accounts(str(tmp_path / "p"), str(tmp_path / "g"))
    assert (accounts.uid("bob"), accounts.uid("alice"), accounts.gid("audio")) == (1000, None, 29)


@pytest.mark.parametrize(
    ("uid", "gids"),
    [
        (1000, {100, 29, 44}),
        (1001, {1001}),
        (1002, set()),  # its gids are not numbers
        (7, set()),
        (29, set()),
    ],
)
def test_the_groups_of_a_login(tmp_path: Path, uid: int, gids: set[int]) -> None:
    (tmp_path / "p").write_text("bob:x:1000:100::/:\nbo:x:1001:1001::/:\nodd:x:1002:-1::/:\nshort:x:7\n")
    (tmp_path / "g").write_text("audio:x:29:alice,bob\nvideo:x:44:bob\nbobs:x:45:bobby\nodd:x:x:odd\nbob:x:46:\n")
    assert Accounts(str(tmp_path / "p"), str(tmp_path / "g")).gids(uid) == gids

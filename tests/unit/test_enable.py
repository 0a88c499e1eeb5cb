"""Switching on and off, as far as it needs no kernel: tests/vm and tests/boot have the rest."""

import argparse
import re
from pathlib import Path

import pytest

from safe_modprobe.act import switch, trial, unit
from safe_modprobe.ctl import disable, enable, preflight
from safe_modprobe.errors import SafeModprobeError
from safe_modprobe.health.facts import Facts, Lkrg, Program, Selinux
from safe_modprobe.policy.builtin import BUILTIN_POLICY
from safe_modprobe.read.health import changeable_by_others

Done = list[tuple[object, ...]]

HELPER = "/usr/sbin/safe-modprobe"


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Done:
    """What would be done to this machine, in order; kernel.modprobe is empty there."""
    found: Done = []
    now = [""]

    def said(*what: object) -> bool:
        found.append(what)
        if what[0] == "set":
            now[0] = str(what[1])
        return True

    monkeypatch.setattr(preflight, "refuse_what_is_in_the_way", lambda for_good: None)
    monkeypatch.setattr(preflight, "ask_for_real", lambda: said("ask"))
    monkeypatch.setattr(enable, "read_policy", lambda: BUILTIN_POLICY)
    monkeypatch.setattr(enable, "dry_run", lambda: "")
    monkeypatch.setattr(enable, "prepare", lambda told: said("prepare"))
    monkeypatch.setattr(trial, "end", lambda: False)
    monkeypatch.setattr(trial, "at_every_boot", lambda wanted: said("trial", wanted))
    monkeypatch.setattr(unit, "enable", lambda: said("links"))
    monkeypatch.setattr(unit, "disable", lambda: said("no links"))
    monkeypatch.setattr(unit, "start", lambda: said("start"))
    monkeypatch.setattr(unit, "at_boot", lambda: False)
    monkeypatch.setattr(switch, "helper", lambda: now[0])
    monkeypatch.setattr(switch, "forget", lambda path: None)
    monkeypatch.setattr(switch, "remember", lambda path: said("remember", path))
    monkeypatch.setattr(switch, "set_helper", lambda path: said("set", path))
    monkeypatch.setattr(switch, "remove_what_was_prepared", lambda: said("unprepare"))
    return found


def asked(**options: bool) -> argparse.Namespace:
    return argparse.Namespace(**{"trial": False, "json": False, "runtime": False} | options)


def test_what_was_there_is_remembered_before_it_is_gone(done: Done) -> None:
    """A kernel.modprobe that the admin had emptied would come back as modprobe, if we are killed in between."""
    assert enable.run(asked(runtime=True)) == 0
    assert done == [("prepare",), ("remember", ""), ("set", HELPER), ("ask",)]


def test_for_good_the_unit_comes_with_it(done: Done) -> None:
    assert enable.run(asked()) == 0
    assert [each[0] for each in done] == ["links", "prepare", "remember", "set", "ask", "trial", "start"]


FAILURES = [
    (preflight, "ask_for_real", ["links", "prepare", "remember", "set", "set", "unprepare", "no links"]),
    (enable, "prepare", ["links", "no links"]),
    (unit, "enable", []),
]


@pytest.mark.parametrize(("where", "name", "steps"), FAILURES, ids=[name for _, name, _ in FAILURES])
def test_what_fails_is_undone(
    done: Done, monkeypatch: pytest.MonkeyPatch, where: object, name: str, steps: list[str]
) -> None:
    def fail(*_: object) -> None:
        raise SafeModprobeError("no")

    monkeypatch.setattr(where, name, fail)
    with pytest.raises(SafeModprobeError, match="^no$"):
        enable.run(asked())
    assert [each[0] for each in done] == steps
    assert switch.helper() == ""


def test_off_at_boot_comes_after_the_kernel(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever systemd says, the kernel has its old helper again."""
    monkeypatch.setattr(switch, "remembered", lambda: "/sbin/modprobe")
    switch.set_helper(HELPER)

    def fail() -> None:
        raise SafeModprobeError("systemctl: no")

    monkeypatch.setattr(unit, "disable", fail)
    with pytest.raises(SafeModprobeError, match="^systemctl: no$"):
        disable.run(asked())
    assert done[-3:] == [("set", "/sbin/modprobe"), ("unprepare",), ("trial", False)]


GOOD = Facts(BUILTIN_POLICY)
IN_THE_WAY = [
    ({"programs": (Program(HELPER, there=False),)}, f"{HELPER} is not there"),
    ({"programs": (Program(HELPER, executable=False),)}, f"{HELPER} is not executable"),
    ({"programs": (Program(HELPER, noexec=True),)}, "mounted noexec"),
    ({"programs": (Program(HELPER, others=((HELPER, "it belongs to uid 7"),)),)}, "it belongs to uid 7"),
    ({"lkrg": Lkrg(umh_validate=1, umh_enforce=1)}, "LKRG kills"),
    ({"options": {"STATIC_USERMODEHELPER": "y"}}, "whatever kernel.modprobe is"),
    ({"selinux": Selinux(True, "system_u:object_r:unlabeled_t:s0")}, "has no label"),
    ({"current": None, "ours": False}, "without loadable modules"),
    ({"bset": 0}, "leaves helpers without CAP_SYS_MODULE"),
]
MENDED_BY_IT: list[dict[str, object]] = [
    {"current": "", "ours": False},
    {"current": "/sbin/modprobe", "ours": False},
    {"stood_down": True, "ours": False},
    {"modules_disabled": True},
]


@pytest.mark.parametrize(("changed", "said"), IN_THE_WAY, ids=range(len(IN_THE_WAY)))
def test_what_is_in_the_way_is_named(monkeypatch: pytest.MonkeyPatch, changed: dict[str, object], said: str) -> None:
    monkeypatch.setattr(preflight, "read_facts", lambda own, code: GOOD._replace(**changed))  # type: ignore[arg-type]
    with pytest.raises(SafeModprobeError, match="nothing was changed: ") as error:
        preflight.refuse_what_is_in_the_way(False)
    assert said in str(error.value)


@pytest.mark.parametrize("changed", MENDED_BY_IT, ids=range(len(MENDED_BY_IT)))
def test_what_it_mends_is_not(monkeypatch: pytest.MonkeyPatch, changed: dict[str, object]) -> None:
    monkeypatch.setattr(preflight, "read_facts", lambda own, code: GOOD._replace(**changed))  # type: ignore[arg-type]
    monkeypatch.setattr(preflight, "changeable_by_others", lambda path: [])
    preflight.refuse_what_is_in_the_way(False)


def test_a_kernel_that_was_booted_with_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "rescue", lambda: "off")
    with pytest.raises(SafeModprobeError, match="says safe_modprobe=off.*nothing was changed, boot without it$"):
        preflight.refuse_what_is_in_the_way(False)


def test_others_may_write_a_folder_on_the_way_or_behind_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "open" / "folder"
    folder.mkdir(parents=True)
    file = folder / "file"
    file.write_text("")
    (tmp_path / "open").chmod(0o777)
    file.chmod(0o620)
    link = tmp_path / "link"
    link.symlink_to(file)
    found = dict(changeable_by_others(str(link)))
    assert found[str(tmp_path / "open")] == "others may write it (mode 0777)"
    assert found[str(file)] == "others may write it (mode 0620)"
    assert str(file) in dict(changeable_by_others(str(folder)))
    assert changeable_by_others(str(tmp_path / "nowhere")) == []


def test_the_units_and_nobody_elses_names() -> None:
    """What `systemctl` is asked about has to be what is installed."""
    folder = Path(__file__).resolve().parents[2] / "packaging/systemd"
    assert (folder / unit.UNIT).exists()
    named = {
        word
        for path in folder.glob("*.*")
        for word in re.findall(r"safe-modprobe[\w-]*\.(?:service|path)", path.read_text())
    }
    assert len(named) > 4 and [name for name in named if not (folder / name).exists()] == []

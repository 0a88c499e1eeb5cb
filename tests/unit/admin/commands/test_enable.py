"""Switching on and off, as far as it needs no kernel: tests/vm and tests/boot have the rest."""

import argparse
import errno
import os
import re
import socket
from pathlib import Path

import pytest

from safe_modprobe.admin.commands import disable, enable, own_kernel, preflight
from safe_modprobe.admin.health.facts import Facts, Lkrg, Program, Selinux
from safe_modprobe.admin.health.read import changeable_by_others
from safe_modprobe.admin.switch import boot, switch, trial, unit
from safe_modprobe.callers import self_test
from safe_modprobe.errors import SafeModprobeError
from safe_modprobe.policy.builtin import BUILTIN_POLICY

Done = list[tuple[object, ...]]

HELPER = "/usr/sbin/safe-modprobe"


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Done:
    """What would be done to this machine, in order; kernel.modprobe is empty there."""
    found: Done = []
    now, state = [""], {"links": False, "trial": False}

    def said(*what: object) -> bool:
        found.append(what)
        if what[0] == "set":
            now[0] = str(what[1])
        for kind, begins, ends in (("links", "links", "no links"), ("trial", "begin", "end")):
            if what[0] in (begins, ends):
                state[kind] = what[0] == begins
        return True

    monkeypatch.setattr(preflight, "refuse_blockers", lambda permanent: None)
    monkeypatch.setattr(preflight, "request_as_root", lambda before: said("ask"))
    monkeypatch.setattr(enable, "cached_policy", lambda folders: BUILTIN_POLICY)
    monkeypatch.setattr(enable, "dry_run", lambda: "")
    monkeypatch.setattr(enable, "prepare", lambda kernel_passes_caller: said("prepare"))
    monkeypatch.setattr(trial, "is_on", lambda: state["trial"])
    monkeypatch.setattr(trial, "start", lambda: said("begin"))
    monkeypatch.setattr(trial, "end", lambda: state["trial"] & said("end"))
    monkeypatch.setattr(trial, "set_at_every_boot", lambda wanted: said("trial", wanted))
    monkeypatch.setattr(unit, "enable", lambda: said("links"))
    monkeypatch.setattr(unit, "disable", lambda: said("no links"))
    monkeypatch.setattr(unit, "start", lambda: said("start"))
    monkeypatch.setattr(unit, "forget_failure", lambda: said("forget"))
    monkeypatch.setattr(unit, "at_boot", lambda: state["links"])
    monkeypatch.setattr(switch, "helper", lambda: now[0])
    monkeypatch.setattr(switch, "forget", lambda path: None)
    monkeypatch.setattr(switch, "remembered_helper", lambda: "/sbin/modprobe")
    monkeypatch.setattr(switch, "wait_for_watch", lambda: said("wait") and os.open(os.devnull, os.O_RDONLY))
    monkeypatch.setattr(switch, "remember_helper", lambda path: said("remember", path))
    monkeypatch.setattr(switch, "set_helper", lambda path: said("set", path))
    monkeypatch.setattr(switch, "remove_prepared_files", lambda: said("unprepare"))
    return found


def asked(**options: bool) -> argparse.Namespace:
    return argparse.Namespace(**{"trial": False, "json": False, "runtime": False} | options)


def test_what_was_there_is_remembered_before_it_is_gone(done: Done) -> None:
    """A kernel.modprobe that the admin had emptied would come back as modprobe, if we are killed in between."""
    assert enable.run(asked(runtime=True)) == 0
    assert done == [("prepare",), ("remember", ""), ("set", HELPER), ("ask",), ("end",)]


def test_for_good_the_unit_comes_with_it(done: Done) -> None:
    assert enable.run(asked()) == 0
    assert [each[0] for each in done] == ["links", "prepare", "remember", "set", "ask", "end", "trial", "start"]


FAILURES = [
    (preflight, "request_as_root", ["links", "prepare", "remember", "set", "set", "unprepare", "no links"]),
    (enable, "prepare", ["links", "no links"]),
    (unit, "enable", []),
    (trial, "set_at_every_boot", ["links", "prepare", "remember", "set", "ask", "end", "no links", "set", "unprepare"]),
    (unit, "start", ["links", "prepare", "remember", "set", "ask", "end", "trial", "no links", "set", "unprepare"]),
]


@pytest.mark.parametrize(("where", "name", "steps"), FAILURES, ids=[name for _, name, _ in FAILURES])
def test_what_fails_is_undone(
    done: Done, monkeypatch: pytest.MonkeyPatch, where: object, name: str, steps: list[str]
) -> None:
    monkeypatch.setattr(where, name, fail)
    with pytest.raises(SafeModprobeError, match="^no$"):
        enable.run(asked())
    assert [each[0] for each in done] == steps
    assert switch.helper() == ""


def fail(*_: object) -> None:
    raise SafeModprobeError("no")


def test_a_trial_that_cannot_begin_with_every_boot_does_not_begin(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enable, "_trial_policy", lambda: BUILTIN_POLICY)
    monkeypatch.setattr(trial, "set_at_every_boot", fail)
    with pytest.raises(SafeModprobeError, match="^no$"):
        enable.run(asked(trial=True))
    assert ("begin",) in done and ("ask",) not in done and not trial.is_on() and switch.helper() == ""


@pytest.mark.parametrize("served", [True, False])
def test_a_trial_ends_once_root_is_served_without_it(done: Done, monkeypatch: pytest.MonkeyPatch, served: bool) -> None:
    trial.start()
    switch.set_helper(HELPER)
    done.clear()
    if served:
        assert enable.run(asked(runtime=True)) == 0
        assert [each[0] for each in done] == ["prepare", "ask", "end"]
    else:
        monkeypatch.setattr(preflight, "request_as_root", fail)
        with pytest.raises(SafeModprobeError, match="^no$"):
            enable.run(asked(runtime=True))
        assert trial.is_on() and switch.helper() == HELPER


OFF = ["set", "wait", "unprepare", "forget", "end", "trial", "no links"]


def test_off_begins_with_the_kernel_and_ends_with_systemd(done: Done) -> None:
    switch.set_helper(HELPER)
    done.clear()
    assert disable.run(asked()) == 0
    assert done[0] == ("set", "/sbin/modprobe")
    assert [each[0] for each in done] == OFF


def test_for_this_boot_alone_systemd_keeps_it(done: Done) -> None:
    switch.set_helper(HELPER)
    done.clear()
    assert disable.run(asked(runtime=True)) == 0
    assert [each[0] for each in done] == OFF[:-2]


@pytest.mark.parametrize(
    ("where", "name", "step", "error", "why"),
    [
        (switch, "remove_prepared_files", "unprepare", OSError(errno.EBUSY, "busy", "/i"), "/i: busy"),
        (switch, "wait_for_watch", "wait", OSError(errno.ENOSPC, "no space", "/l"), "/l: no space"),
        (unit, "forget_failure", "forget", SafeModprobeError("systemctl: no"), "systemctl: no"),
        (trial, "end", "end", SafeModprobeError("/run/t: no"), "/run/t: no"),
        (trial, "set_at_every_boot", "trial", OSError(errno.EROFS, "read-only"), "read-only"),
        (unit, "disable", "no links", SafeModprobeError("systemctl: no"), "systemctl: no"),
    ],
)  # fmt: skip
def test_what_fails_keeps_nothing_else_from_being_done(
    done: Done, monkeypatch: pytest.MonkeyPatch, where: object, name: str, step: str, error: Exception, why: str
) -> None:
    switch.set_helper(HELPER)
    done.clear()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(where, name, fail)
    with pytest.raises(SafeModprobeError) as raised:
        disable.run(asked())
    assert str(raised.value) == f"kernel.modprobe is now /sbin/modprobe, but this failed: {why}"
    assert [each[0] for each in done] == [each for each in OFF if each != step]


FORGET, STOP = "reset-failed safe-modprobe.service", "--no-block stop safe-modprobe-watch.timer"
FAILED = [
    ("it has failed", "is-failed", [FORGET]),
    ("and is tried again", "is-failed|is-active", [FORGET, STOP]),
    ("it runs, and is looked at again", "is-active", [STOP]),
    ("all is well", "nothing", []),
]


@pytest.mark.parametrize(("yes", "asked_for"), [row[1:] for row in FAILED], ids=[row[0] for row in FAILED])
def test_a_boot_that_has_failed_is_not_made_up_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, yes: str, asked_for: list[str]
) -> None:
    """The watch would: an enabled unit that has failed is one to be started again."""
    systemctl, log = tmp_path / "systemctl", tmp_path / "log"
    systemctl.write_text(
        f'#!/bin/sh\ncase $1 in {yes}) exit 0 ;; is-*) exit 1 ;; esac\necho "$*" >>{log}\n[ ! -e {tmp_path}/no ]\n'
    )
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    unit.forget_failure()
    assert not log.exists(), "systemd does not run"
    monkeypatch.setattr(unit, "_SYSTEMD", str(tmp_path))
    unit.forget_failure()
    assert (log.read_text().splitlines() if log.exists() else []) == asked_for
    (tmp_path / "no").touch()
    if asked_for:
        with pytest.raises(SafeModprobeError, match=f"^systemctl {asked_for[0]}: exit status 1$"):
            unit.forget_failure()


def test_a_kernel_that_is_not_to_be_set_is_said_and_keeps_its_instance(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch.set_helper(HELPER)
    done.clear()

    def fail(path: str) -> None:
        raise OSError(errno.EROFS, "read-only", "/switch")

    monkeypatch.setattr(switch, "set_helper", fail)
    with pytest.raises(SafeModprobeError) as raised:
        disable.run(asked())
    assert str(raised.value) == f"kernel.modprobe is now {HELPER}, but this failed: /switch: read-only"
    assert [each[0] for each in done] == ["wait", "forget", "end", "trial", "no links"]


def test_what_the_watch_did_until_then_is_undone(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    switch.set_helper(HELPER)

    def come_back() -> int:
        switch.set_helper(HELPER)
        return os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(switch, "wait_for_watch", come_back)
    assert disable.run(asked()) == 0
    assert switch.helper() == "/sbin/modprobe"


def test_another_name_of_ours_is_ours(done: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """/sbin is often a link: who switches off then, and removes the package, must not leave that name."""
    own, link = tmp_path / "helper", tmp_path / "link"
    own.write_text("")
    link.symlink_to(own)
    monkeypatch.setattr(switch, "HELPER", str(own))
    switch.set_helper(str(link))
    done.clear()
    assert switch.install_helper() == str(link)
    assert done == [("set", str(own))], "it is nothing to be remembered"
    switch.set_helper(str(link))
    assert disable.run(asked()) == 0
    assert switch.helper() == "/sbin/modprobe"
    switch.set_helper("/nowhere/safe-modprobe")
    assert not switch.is_on()


REMEMBERED = [
    ("nobody remembers", None, "/sbin/modprobe"),
    ("it is gone", "/nowhere/helper", "/sbin/modprobe"),
    ("it cannot be run", "/etc/passwd", "/sbin/modprobe"),
    ("no path at all", "\n", "/sbin/modprobe"),
    ("all requests were off", "", ""),
    ("it is there", "/bin/sh", "/bin/sh"),
]


@pytest.mark.parametrize(("text", "helper"), [row[1:] for row in REMEMBERED], ids=[row[0] for row in REMEMBERED])
def test_what_is_given_back_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, helper: str
) -> None:
    monkeypatch.setattr(switch, "_BEFORE", str(tmp_path / "before"))
    if text is not None:
        (tmp_path / "before").write_text(text)
    assert switch.remembered_helper() == helper


@pytest.mark.parametrize(("helper", "steps"), [(HELPER, ["prepare"]), ("/sbin/modprobe", []), ("", [])])
def test_a_refresh_points_the_kernel_nowhere(
    done: Done, monkeypatch: pytest.MonkeyPatch, helper: str, steps: list[str]
) -> None:
    switch.set_helper(helper)
    done.clear()
    monkeypatch.setattr(boot, "prepare", lambda: done.append(("prepare",)))
    assert boot.main(["refresh"]) == 0
    assert [each[0] for each in done] == steps


def own_kernel_says(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    program = folder / "own-kernel"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(own_kernel, "PROGRAM", str(program))


def test_in_a_container_nothing_is_switched(done: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    switch.set_helper(HELPER)
    done.clear()
    own_kernel_says(monkeypatch, tmp_path, "echo 'a container (lxc)'; exit 1")
    said = "^this is a container \\(lxc\\), and its kernel is another system's; nothing was changed; run this there$"
    with pytest.raises(SafeModprobeError, match=said):
        disable.run(asked())
    monkeypatch.undo()
    own_kernel_says(monkeypatch, tmp_path, "echo 'a container (lxc)'; exit 1")
    monkeypatch.setattr(preflight, "read_helper_facts", lambda own, code: GOOD)
    with pytest.raises(SafeModprobeError, match=said):
        preflight.refuse_blockers(False)
    assert done == []


@pytest.mark.parametrize("script", ["exit 0", "exit 2", "exit 127"])
def test_doubt_about_whose_kernel_it_is_keeps_nobody_from_switching_off(
    done: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
) -> None:
    switch.set_helper(HELPER)
    own_kernel_says(monkeypatch, tmp_path, script)
    assert disable.run(asked()) == 0
    monkeypatch.setattr(own_kernel, "PROGRAM", str(tmp_path / "nothing"))
    assert disable.run(asked()) == 0


@pytest.mark.parametrize(("before", "then"), [("", "was restored"), (HELPER, f"is still {HELPER}")])
def test_what_becomes_of_the_kernel_is_true(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: str, then: str
) -> None:
    monkeypatch.setattr(self_test, "PATH", str(tmp_path / "self-test"))

    def ask(*_: object) -> None:
        raise OSError(errno.EPROTONOSUPPORT, "no")

    monkeypatch.setattr(socket, "socket", ask)
    with pytest.raises(SafeModprobeError, match=f"; kernel.modprobe {then}: see the kernel's log$"):
        preflight.request_as_root(before)

    def refused(*_: object) -> None:
        (tmp_path / "self-test").write_text("unprivileged none\n")

    monkeypatch.setattr(socket, "socket", lambda *_: refused() or ask())
    with pytest.raises(
        SafeModprobeError, match=f"; kernel.modprobe {then}: run 'safe-modprobectl status' to see the sources$"
    ):
        preflight.request_as_root(before)


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
    monkeypatch.setattr(preflight, "read_helper_facts", lambda own, code: GOOD._replace(**changed))  # type: ignore[arg-type]
    with pytest.raises(SafeModprobeError, match="nothing was changed: ") as error:
        preflight.refuse_blockers(False)
    assert said in str(error.value)


@pytest.mark.parametrize("changed", MENDED_BY_IT, ids=range(len(MENDED_BY_IT)))
def test_what_it_mends_is_not(monkeypatch: pytest.MonkeyPatch, changed: dict[str, object]) -> None:
    monkeypatch.setattr(preflight, "read_helper_facts", lambda own, code: GOOD._replace(**changed))  # type: ignore[arg-type]
    monkeypatch.setattr(preflight, "changeable_by_others", lambda path: [])
    preflight.refuse_blockers(False)


def test_a_kernel_that_was_booted_with_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "rescue_word", lambda: "off")
    with pytest.raises(SafeModprobeError, match="says safe_modprobe=off.*nothing was changed; boot without it$"):
        preflight.refuse_blockers(False)


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
    folder = Path(__file__).resolve().parents[4] / "packaging/systemd"
    assert (folder / unit.UNIT).exists()
    named = {
        word
        for path in folder.glob("*.*")
        for word in re.findall(r"safe-modprobe[\w-]*\.(?:service|path)", path.read_text())
    }
    assert len(named) > 4 and [name for name in named if not (folder / name).exists()] == []


def test_a_part_that_the_disk_took_is_not_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """write(2) of more than there is room for takes what fits, and says so by its number alone."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    switch._write(str(tmp_path / "f"), "last resort", os.O_CREAT)
    assert (tmp_path / "f").read_text() == "last resort"

"""`enable` and `disable` without a kernel. tests/vm and tests/boot test them with one."""

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
    """The steps that would change this machine, in order. kernel.modprobe is empty at the start."""
    steps: Done = []
    now, state = [""], {"links": False, "trial": False}

    def record(*step: object) -> bool:
        steps.append(step)
        if step[0] == "set":
            now[0] = str(step[1])
        for kind, begins, ends in (("links", "links", "no links"), ("trial", "begin", "end")):
            if step[0] in (begins, ends):
                state[kind] = step[0] == begins
        return True

    monkeypatch.setattr(preflight, "refuse_blockers", lambda permanent: None)
    monkeypatch.setattr(preflight, "request_as_root", lambda before: record("ask"))
    monkeypatch.setattr(enable, "cached_policy", lambda folders: BUILTIN_POLICY)
    monkeypatch.setattr(enable, "dry_run", lambda: "")
    monkeypatch.setattr(enable, "prepare", lambda kernel_passes_caller: record("prepare"))
    monkeypatch.setattr(trial, "is_on", lambda: state["trial"])
    monkeypatch.setattr(trial, "start", lambda: record("begin"))
    monkeypatch.setattr(trial, "end", lambda: state["trial"] & record("end"))
    monkeypatch.setattr(trial, "set_at_every_boot", lambda wanted: record("trial", wanted))
    monkeypatch.setattr(unit, "enable", lambda: record("links"))
    monkeypatch.setattr(unit, "disable", lambda: record("no links"))
    monkeypatch.setattr(unit, "start", lambda: record("start"))
    monkeypatch.setattr(unit, "forget_failure", lambda: record("forget"))
    monkeypatch.setattr(unit, "at_boot", lambda: state["links"])
    monkeypatch.setattr(switch, "helper", lambda: now[0])
    monkeypatch.setattr(switch, "remove_if_exists", lambda path: None)
    monkeypatch.setattr(switch, "remembered_helper", lambda: "/sbin/modprobe")
    monkeypatch.setattr(switch, "wait_for_watch", lambda: record("wait") and os.open(os.devnull, os.O_RDONLY))
    monkeypatch.setattr(switch, "remember_helper", lambda path: record("remember", path))
    monkeypatch.setattr(switch, "set_helper", lambda path: record("set", path))
    monkeypatch.setattr(switch, "remove_prepared_files", lambda: record("unprepare"))
    return steps


def options_of(**options: bool) -> argparse.Namespace:
    return argparse.Namespace(**{"trial": False, "json": False, "runtime": False} | options)


def test_enable_remembers_the_previous_helper_before_it_replaces_it(done: Done) -> None:
    """Otherwise an empty kernel.modprobe would be restored as modprobe, if `enable` is killed in between."""
    assert enable.run(options_of(runtime=True)) == 0
    assert done == [("prepare",), ("remember", ""), ("set", HELPER), ("ask",), ("end",)]


def test_enable_without_runtime_also_enables_the_unit(done: Done) -> None:
    assert enable.run(options_of()) == 0
    assert [each[0] for each in done] == ["links", "prepare", "remember", "set", "ask", "end", "trial", "start"]


FAILURES = [
    (preflight, "request_as_root", ["links", "prepare", "remember", "set", "set", "unprepare", "no links"]),
    (enable, "prepare", ["links", "no links"]),
    (unit, "enable", []),
    (trial, "set_at_every_boot", ["links", "prepare", "remember", "set", "ask", "end", "no links", "set", "unprepare"]),
    (unit, "start", ["links", "prepare", "remember", "set", "ask", "end", "trial", "no links", "set", "unprepare"]),
]


@pytest.mark.parametrize(("where", "name", "steps"), FAILURES, ids=[name for _, name, _ in FAILURES])
def test_a_failed_step_of_enable_undoes_all_others(
    done: Done, monkeypatch: pytest.MonkeyPatch, where: object, name: str, steps: list[str]
) -> None:
    monkeypatch.setattr(where, name, fail)
    with pytest.raises(SafeModprobeError, match="^no$"):
        enable.run(options_of())
    assert [each[0] for each in done] == steps
    assert switch.helper() == ""


def fail(*_: object) -> None:
    raise SafeModprobeError("no")


def test_a_trial_does_not_begin_if_it_cannot_be_set_for_every_boot(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enable, "_trial_policy", lambda: BUILTIN_POLICY)
    monkeypatch.setattr(trial, "set_at_every_boot", fail)
    with pytest.raises(SafeModprobeError, match="^no$"):
        enable.run(options_of(trial=True))
    assert ("begin",) in done and ("ask",) not in done and not trial.is_on() and switch.helper() == ""


@pytest.mark.parametrize("served", [True, False])
def test_a_trial_ends_only_after_root_is_served(done: Done, monkeypatch: pytest.MonkeyPatch, served: bool) -> None:
    trial.start()
    switch.set_helper(HELPER)
    done.clear()
    if served:
        assert enable.run(options_of(runtime=True)) == 0
        assert [each[0] for each in done] == ["prepare", "ask", "end"]
    else:
        monkeypatch.setattr(preflight, "request_as_root", fail)
        with pytest.raises(SafeModprobeError, match="^no$"):
            enable.run(options_of(runtime=True))
        assert trial.is_on() and switch.helper() == HELPER


OFF = ["set", "wait", "unprepare", "forget", "end", "trial", "no links"]


def test_disable_sets_the_kernel_first_and_systemd_last(done: Done) -> None:
    switch.set_helper(HELPER)
    done.clear()
    assert disable.run(options_of()) == 0
    assert done[0] == ("set", "/sbin/modprobe")
    assert [each[0] for each in done] == OFF


def test_disable_runtime_leaves_the_unit_enabled(done: Done) -> None:
    switch.set_helper(HELPER)
    done.clear()
    assert disable.run(options_of(runtime=True)) == 0
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
def test_a_failed_step_of_disable_does_not_stop_the_others(
    done: Done, monkeypatch: pytest.MonkeyPatch, where: object, name: str, step: str, error: Exception, why: str
) -> None:
    switch.set_helper(HELPER)
    done.clear()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(where, name, fail)
    with pytest.raises(SafeModprobeError) as raised:
        disable.run(options_of())
    assert str(raised.value) == f"kernel.modprobe is now /sbin/modprobe, but this failed: {why}"
    assert [each[0] for each in done] == [each for each in OFF if each != step]


FORGET, STOP = "reset-failed safe-modprobe.service", "--no-block stop safe-modprobe-watch.timer"
FAILED = [
    ("the unit has failed", "is-failed", [FORGET]),
    ("the unit has failed, and the timer is active", "is-failed|is-active", [FORGET, STOP]),
    ("the timer is active", "is-active", [STOP]),
    ("nothing to forget", "nothing", []),
]


@pytest.mark.parametrize(("true_queries", "commands"), [row[1:] for row in FAILED], ids=[row[0] for row in FAILED])
def test_a_failed_unit_is_forgotten_when_switching_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, true_queries: str, commands: list[str]
) -> None:
    """Otherwise the watch would start an enabled unit that has failed."""
    systemctl, log = tmp_path / "systemctl", tmp_path / "log"
    systemctl.write_text(
        f'#!/bin/sh\ncase $1 in {true_queries}) exit 0 ;; is-*) exit 1 ;; esac\necho "$*" >>{log}\n[ ! -e {tmp_path}/no ]\n'
    )
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    unit.forget_failure()
    assert not log.exists(), "systemd does not run"
    monkeypatch.setattr(unit, "_SYSTEMD", str(tmp_path))
    unit.forget_failure()
    assert (log.read_text().splitlines() if log.exists() else []) == commands
    (tmp_path / "no").touch()
    if commands:
        with pytest.raises(SafeModprobeError, match=f"^systemctl {commands[0]}: exit status 1$"):
            unit.forget_failure()


def test_disable_keeps_the_instance_if_kernel_modprobe_cannot_be_set(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch.set_helper(HELPER)
    done.clear()

    def fail(path: str) -> None:
        raise OSError(errno.EROFS, "read-only", "/switch")

    monkeypatch.setattr(switch, "set_helper", fail)
    with pytest.raises(SafeModprobeError) as raised:
        disable.run(options_of())
    assert str(raised.value) == f"kernel.modprobe is now {HELPER}, but this failed: /switch: read-only"
    assert [each[0] for each in done] == ["wait", "forget", "end", "trial", "no links"]


def test_disable_undoes_what_the_watch_did_meanwhile(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    switch.set_helper(HELPER)

    def come_back() -> int:
        switch.set_helper(HELPER)
        return os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(switch, "wait_for_watch", come_back)
    assert disable.run(options_of()) == 0
    assert switch.helper() == "/sbin/modprobe"


def test_the_helper_is_recognised_by_another_path(done: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """/sbin is often a link. Switching off, and then removing the package, must not leave that path."""
    own, link = tmp_path / "helper", tmp_path / "link"
    own.write_text("")
    link.symlink_to(own)
    monkeypatch.setattr(switch, "HELPER", str(own))
    switch.set_helper(str(link))
    done.clear()
    assert switch.install_helper() == str(link)
    assert done == [("set", str(own))], "our own helper is not remembered as the previous one"
    switch.set_helper(str(link))
    assert disable.run(options_of()) == 0
    assert switch.helper() == "/sbin/modprobe"
    switch.set_helper("/nowhere/safe-modprobe")
    assert not switch.is_on()


REMEMBERED = [
    ("nothing is remembered", None, "/sbin/modprobe"),
    ("the remembered program is missing", "/nowhere/helper", "/sbin/modprobe"),
    ("the remembered program is not executable", "/etc/passwd", "/sbin/modprobe"),
    ("not a path", "\n", "/sbin/modprobe"),
    ("module requests were off", "", ""),
    ("the remembered program exists", "/bin/sh", "/bin/sh"),
]


@pytest.mark.parametrize(("text", "helper"), [row[1:] for row in REMEMBERED], ids=[row[0] for row in REMEMBERED])
def test_the_restored_helper_exists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, helper: str
) -> None:
    monkeypatch.setattr(switch, "_BEFORE", str(tmp_path / "before"))
    if text is not None:
        (tmp_path / "before").write_text(text)
    assert switch.remembered_helper() == helper


@pytest.mark.parametrize(("helper", "steps"), [(HELPER, ["prepare"]), ("/sbin/modprobe", []), ("", [])])
def test_a_refresh_does_not_set_kernel_modprobe(
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


def test_nothing_is_switched_in_a_container(done: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    switch.set_helper(HELPER)
    done.clear()
    own_kernel_says(monkeypatch, tmp_path, "echo 'a container (lxc)'; exit 1")
    message = "^this is a container \\(lxc\\), and its kernel is another system's; nothing was changed; run this there$"
    with pytest.raises(SafeModprobeError, match=message):
        disable.run(options_of())
    monkeypatch.undo()
    own_kernel_says(monkeypatch, tmp_path, "echo 'a container (lxc)'; exit 1")
    monkeypatch.setattr(preflight, "read_helper_facts", lambda own, code: GOOD)
    with pytest.raises(SafeModprobeError, match=message):
        preflight.refuse_blockers(False)
    assert done == []


@pytest.mark.parametrize("script", ["exit 0", "exit 2", "exit 127"])
def test_disable_works_if_it_is_unknown_whose_kernel_it_is(
    done: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
) -> None:
    switch.set_helper(HELPER)
    own_kernel_says(monkeypatch, tmp_path, script)
    assert disable.run(options_of()) == 0
    monkeypatch.setattr(own_kernel, "PROGRAM", str(tmp_path / "nothing"))
    assert disable.run(options_of()) == 0


@pytest.mark.parametrize(("before", "then"), [("", "was restored"), (HELPER, f"is still {HELPER}")])
def test_the_error_says_what_kernel_modprobe_is_now(
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
BLOCKERS = [
    ({"programs": (Program(HELPER, there=False),)}, f"{HELPER} does not exist"),
    ({"programs": (Program(HELPER, executable=False),)}, f"{HELPER} is not executable"),
    ({"programs": (Program(HELPER, noexec=True),)}, "mounted noexec"),
    ({"programs": (Program(HELPER, others=((HELPER, "it belongs to uid 7"),)),)}, "it belongs to uid 7"),
    ({"lkrg": Lkrg(umh_validate=1, umh_enforce=1)}, "LKRG kills"),
    ({"options": {"STATIC_USERMODEHELPER": "y"}}, "ignores kernel.modprobe"),
    ({"selinux": Selinux(True, "system_u:object_r:unlabeled_t:s0")}, "has no label"),
    ({"current": None, "ours": False}, "without loadable modules"),
    ({"bset": 0}, "bset lacks CAP_SYS_MODULE"),
]
MENDED_BY_ENABLE: list[dict[str, object]] = [
    {"current": "", "ours": False},
    {"current": "/sbin/modprobe", "ours": False},
    {"stood_down": True, "ours": False},
    {"modules_disabled": True},
]


@pytest.mark.parametrize(("changed", "message"), BLOCKERS, ids=range(len(BLOCKERS)))
def test_enable_names_what_blocks_it(monkeypatch: pytest.MonkeyPatch, changed: dict[str, object], message: str) -> None:
    monkeypatch.setattr(preflight, "read_helper_facts", lambda own, code: GOOD._replace(**changed))  # type: ignore[arg-type]
    with pytest.raises(SafeModprobeError, match="nothing was changed: ") as error:
        preflight.refuse_blockers(False)
    assert message in str(error.value)


@pytest.mark.parametrize("changed", MENDED_BY_ENABLE, ids=range(len(MENDED_BY_ENABLE)))
def test_what_enable_mends_does_not_block_it(monkeypatch: pytest.MonkeyPatch, changed: dict[str, object]) -> None:
    monkeypatch.setattr(preflight, "read_helper_facts", lambda own, code: GOOD._replace(**changed))  # type: ignore[arg-type]
    monkeypatch.setattr(preflight, "changeable_by_others", lambda path: [])
    preflight.refuse_blockers(False)


def test_enable_refuses_to_run_after_a_boot_with_safe_modprobe_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "rescue_word", lambda: "off")
    with pytest.raises(SafeModprobeError, match="says safe_modprobe=off.*nothing was changed; boot without it$"):
        preflight.refuse_blockers(False)


def test_files_that_others_can_write_are_found_in_parents_and_behind_links(tmp_path: Path) -> None:
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


def test_every_unit_named_in_a_unit_is_installed() -> None:
    """Also the unit that `enable` and `disable` pass to systemctl."""
    folder = Path(__file__).resolve().parents[4] / "packaging/systemd"
    assert (folder / unit.UNIT).exists()
    named = {
        word
        for path in folder.glob("*.*")
        for word in re.findall(r"safe-modprobe[\w-]*\.(?:service|path)", path.read_text())
    }
    assert len(named) > 4 and [name for name in named if not (folder / name).exists()] == []


def test_a_short_write_is_continued(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """write(2) of more than there is room for writes what fits, and only its result tells."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    switch._write(str(tmp_path / "f"), "last resort", os.O_CREAT)
    assert (tmp_path / "f").read_text() == "last resort"

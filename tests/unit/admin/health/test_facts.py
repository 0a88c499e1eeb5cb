"""read_facts(): facts of machines that tests build in a folder, and of this machine."""

import gzip
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from safe_modprobe.admin.health.facts import ALL_CAPABILITIES, Facts, Lkrg, Program, Selinux, Setting, Tracing
from safe_modprobe.admin.health.read import read_facts
from safe_modprobe.admin.policy.digest import digest
from safe_modprobe.callers.tracefs import dump_memory
from safe_modprobe.model import Origin
from safe_modprobe.policy.builtin import BUILTIN_POLICY
from tests.tree.build import VERSION, Mod, build_tree

OWN = "/usr/sbin/safe-modprobe"
CODE = "/usr/lib/safe-modprobe/safe_modprobe"
INSTANCE = "sys/kernel/tracing/instances/safe-modprobe"

MACHINE = {
    "proc/sys/kernel/modprobe": f"{OWN}\n",
    "proc/sys/kernel/modules_disabled": "0\n",
    "proc/sys/kernel/usermodehelper/bset": "4294967295\t511\n",
    "proc/sys/dev/tty/ldisc_autoload": "1\n",
    "proc/self/stack": "[<0>] proc_pid_stack+0xb1/0x150\n",
    "proc/modules": "xfs 1 0 - Live 0x0\nnf_tables 2 1 nft_ct, Live 0x0\n",
    "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
    f"{INSTANCE}/events/module/module_request/enable": "1\n",
    f"{INSTANCE}/tracing_on": "1\n",
    f"{INSTANCE}/trace_clock": "local global [boot] mono\n",
    f"{INSTANCE}/per_cpu/cpu0/stats": "entries: 0\noverrun: 0\ncommit overrun: 3\nbytes: 0\ndropped events: 0\nread events: 9\n",
    "boot/config-6.1": 'CONFIG_MODULES=y\n# CONFIG_STATIC_USERMODEHELPER is not set\nCONFIG_MODPROBE_PATH="/sbin/modprobe"\n',
    "lib/modules/6.1/modules.builtin": "kernel/fs/ext4/ext4.ko\nkernel/net/sched/sch-fq.ko\n",
    "etc/passwd": "root:x:0:0::/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "usr/lib/safe-modprobe/policy.d/90-settings.toml": '[settings]\nmode = "marked"\n',
    OWN: "#!/usr/bin/python3 -IBS\n",
    "/usr/bin/python3": "\x7fELF",
    f"{CODE}/helper.py": "",
}  # fmt: skip


def put(top: Path, path: str, text: str | bytes | None) -> None:
    """Write a file of the machine, or remove it if `text` is None."""
    file = top / path.lstrip("/")
    if text is None:
        file.unlink()
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    file.chmod(0o755 if text[:1] in ("#", "\x7f") else 0o644)


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    before = os.umask(0o022)
    for path, text in MACHINE.items():
        put(tmp_path, path, text)
    yield tmp_path
    os.umask(before)


def facts(top: Path) -> Facts:
    return read_facts(OWN, CODE, str(top), "6.1")


def test_facts_of_a_machine_without_problems(top: Path) -> None:
    found = facts(top)
    files = ((f"{top}/usr/lib/safe-modprobe/policy.d/90-settings.toml", b'[settings]\nmode = "marked"\n'),)
    assert found.policy.files == (files[0][0],)
    assert found == Facts(
        found.policy,
        digest=digest(files),
        kernel="6.1",
        at_boot=False,
        options={"MODULES": "y", "MODPROBE_PATH": '"/sbin/modprobe"'},
        programs=(Program(OWN), Program("/usr/bin/python3"), Program(CODE)),
        lockdown="none",
        bset=0x1FFFFFFFFFF,
        ldisc_autoload=True,
        built_in=frozenset({"ext4", "sch_fq"}),
        loaded=frozenset({"xfs", "nf_tables"}),
    )


JUST_NOW = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 3600 * 10**9
"""An hour in the future, so that the loss stays recent even if the rows start late on a busy machine."""

ROWS = [
    ("proc/sys/kernel/modprobe", "/sbin/modprobe\n", {"current": "/sbin/modprobe", "ours": False}),
    ("proc/sys/kernel/modprobe", "\n", {"current": "", "ours": False}),
    ("proc/sys/kernel/modprobe", None, {"current": None, "ours": False}),
    ("proc/sys/kernel/modprobe", f"{OWN}.bak\n", {"current": f"{OWN}.bak", "ours": False}),
    ("proc/cmdline", "quiet xsafe_modprobe=off safe_modprobe=of safe_modprobe=off,log\n", {"rescue": ""}),
    ("proc/cmdline", "safe_modprobe=log safe_modprobe=off\n", {"rescue": "off"}),
    ("run/safe-modprobe/stood-down", "", {"stood_down": True}),
    ("etc/systemd/system/sysinit.target.wants/safe-modprobe.service", "", {"at_boot": True}),
    ("proc/sys/kernel/modules_disabled", "1\n", {"modules_disabled": True}),
    ("proc/sys/kernel/modules_disabled", None, {"modules_disabled": False}),
    ("proc/sys/kernel/usermodehelper/bset", "4294901759\t511\n", {"bset": 0x1FFFFFFFFFF & ~(1 << 16)}),
    ("proc/sys/kernel/usermodehelper/bset", "0\t0\n", {"bset": 0}),
    ("proc/sys/kernel/usermodehelper/bset", None, {"bset": ALL_CAPABILITIES}),
    ("proc/sys/dev/tty/ldisc_autoload", "0\n", {"ldisc_autoload": False}),
    ("proc/sys/dev/tty/ldisc_autoload", None, {"ldisc_autoload": None}),
    ("proc/sys/kernel/modprobe_caller_args", "1\n", {"names_unprivileged": True}),
    ("proc/sys/kernel/modprobe_caller_args", "0\n", {"names_unprivileged": False}),
    ("proc/sys/kernel/modprobe_caller_args", "2\n", {"names_unprivileged": False}),
    ("proc/sys/kernel/modprobe_caller_args", "", {"names_unprivileged": False}),
    ("proc/self/stack", None, {"stacks": False}),
    ("proc/self/stack", "[<0>] 0xffffffff81234567\n", {"stacks": False}),
    ("proc/modules", None, {"loaded": frozenset()}),
    ("sys/kernel/security/lockdown", "none integrity [confidentiality]\n", {"lockdown": "confidentiality"}),
    ("sys/kernel/security/lockdown", None, {"lockdown": None}),
    ("boot/config-6.1", None, {"options": None}),
    ("boot/config-6.1", "", {"options": None}),
    ("proc/config.gz", gzip.compress(b"CONFIG_A=m\n# CONFIG_B is not set\n"), {"options": {"A": "m"}}),
    ("lib/modules/6.1/modules.builtin", "", {"built_in": frozenset()}),
    (f"{INSTANCE}/events/module/module_request/enable", "0\n", {"tracing": Tracing(event=False)}),
    (f"{INSTANCE}/tracing_on", "0\n", {"tracing": Tracing(recording=False)}),
    (f"{INSTANCE}/tracing_on", None, {"tracing": Tracing(refused="No such file or directory")}),
    (f"{INSTANCE}/trace_clock", "[local] boot\n", {"tracing": Tracing(clock=False)}),
    (f"{INSTANCE}/per_cpu/cpu1/stats", "overrun: 5\ndropped events: 2\n", {"tracing": Tracing(lost=7)}),
    ("run/safe-modprobe/requests", dump_memory({}, 1), {"tracing": Tracing()}),
    ("run/safe-modprobe/requests", dump_memory({}, JUST_NOW), {"tracing": Tracing(doubt=True)}),
    ("proc/sys/lkrg/umh_validate", "1\n", {"lkrg": Lkrg(1, 0, 0)}),
    ("proc/sys/lkrg/umh_enforce", "2\n", {"lkrg": Lkrg(0, 2, 0)}),
    ("proc/sys/lkrg/block_modules", "1\n", {"lkrg": Lkrg(0, 0, 1)}),
    ("sys/fs/selinux/enforce", "0", {"selinux": Selinux(False, None)}),
    ("sys/fs/selinux/enforce", "1", {"selinux": Selinux(True, None)}),
    ("etc/sysctl.d/a.conf", "#kernel.modprobe=/a\nvm.x=1\n", {"sysctl": None}),
    ("etc/sysctl.d/a.conf", "kernel.modprobe_x=/a\n", {"sysctl": None}),
    ("etc/sysctl.d/a.conf.bak", "kernel.modprobe=/a\n", {"sysctl": None}),
    ("etc/sysctl.d/a.conf", "\n kernel.modprobe = /a b \n", {"sysctl": Setting(Origin("/etc/sysctl.d/a.conf", 2), "/a b")}),
    ("etc/sysctl.d/a.conf", "-kernel/modprobe=", {"sysctl": Setting(Origin("/etc/sysctl.d/a.conf", 1), "")}),
    (OWN, "ELF", {"programs": (Program(OWN, executable=False), Program(CODE))}),
    (OWN, "#!\n", {"programs": (Program(OWN), Program(CODE))}),
    (OWN, "#! \x00", {"programs": (Program(OWN), Program(CODE))}),
    (OWN, None, {"programs": (Program(OWN, there=False), Program(CODE))}),
    ("/usr/bin/python3", None, {"programs": (Program(OWN), Program("/usr/bin/python3", there=False), Program(CODE))}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "text", "changed"), ROWS, ids=range(len(ROWS)))
def test_each_changed_file_changes_one_fact(
    top: Path, path: str, text: str | bytes | None, changed: dict[str, object]
) -> None:
    before = facts(top)
    put(top, path, text)
    assert facts(top) == before._replace(**changed)


@pytest.mark.parametrize(
    ("files", "origin", "value"),
    [
        (["usr/lib/sysctl.d/90-a.conf", "etc/sysctl.d/10-b.conf"], "/usr/lib/sysctl.d/90-a.conf", "0"),
        (["usr/lib/sysctl.d/90-a.conf", "etc/sysctl.d/90-a.conf"], "/etc/sysctl.d/90-a.conf", "1"),
        (["run/sysctl.d/90-a.conf", "usr/local/lib/sysctl.d/90-a.conf"], "/run/sysctl.d/90-a.conf", "0"),
        (["etc/sysctl.conf", "etc/sysctl.d/99-z.conf"], "/etc/sysctl.conf", "0"),
    ],
)
def test_the_last_sysctl_file_by_name_takes_effect(top: Path, files: list[str], origin: str, value: str) -> None:
    for number, path in enumerate(files):
        put(top, path, f"kernel.modprobe = {number}\n")
    assert facts(top).sysctl == Setting(Origin(origin, 1), value)


def test_a_folder_in_sysctl_d_is_ignored(top: Path) -> None:
    """sysctl(8) and systemd skip it, so it must not block `enable`."""
    put(top, "etc/sysctl.d/90-a.conf/50-b.conf", "kernel.modprobe = /a\n")
    put(top, "etc/sysctl.d/10-c.conf", "kernel.modprobe = /c\n")
    assert facts(top).sysctl == Setting(Origin("/etc/sysctl.d/10-c.conf", 1), "/c")


def test_a_masked_sysctl_file_is_ignored(top: Path) -> None:
    put(top, "usr/lib/sysctl.d/90-a.conf", "kernel.modprobe = /bin/false\n")
    (top / "etc/sysctl.d").mkdir()
    (top / "etc/sysctl.d/90-a.conf").symlink_to("/dev/null")
    assert facts(top).sysctl is None


@pytest.mark.parametrize("name", [OWN, "/usr/sbin", "/usr", "/usr/bin/python3", "/usr/bin", CODE, f"{CODE}/helper.py"])
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: os.chown(path, 1000, 0), "it belongs to uid 1000"),
        (lambda path: path.chmod(0o775), "others may write it (mode 0775)"),
        (lambda path: path.chmod(0o757), "others may write it (mode 0757)"),
    ],
)
def test_files_that_other_users_can_change_are_found(top: Path, name: str, spoil: object, why: str) -> None:
    spoil(top / name.lstrip("/"))  # type: ignore[operator]
    found = {other for program in facts(top).programs for other in program.others}
    assert found == {(name, why)}


def test_a_sticky_folder_protects_files_of_root(top: Path) -> None:
    (top / "usr").chmod(0o1777)
    assert all(not program.others for program in facts(top).programs)


def test_a_link_and_its_target_are_both_checked(top: Path) -> None:
    (top / "opt").mkdir()
    (top / OWN.lstrip("/")).rename(top / "opt/real")
    (top / OWN.lstrip("/")).symlink_to("../../opt/real")
    (top / "opt").chmod(0o777)
    (top / "usr/sbin").chmod(0o777)
    own = facts(top).programs[0]
    assert own.there and own.executable
    assert own.others == (
        ("/usr/sbin", "others may write it (mode 0777)"), ("/opt", "others may write it (mode 0777)"),
    )  # fmt: skip


def test_a_folder_is_not_a_helper(top: Path) -> None:
    put(top, OWN, None)
    (top / OWN.lstrip("/")).mkdir()
    assert facts(top).programs[0] == Program(OWN, there=False)


def test_another_path_of_our_file_counts_as_ours(top: Path) -> None:
    (top / "sbin").symlink_to("usr/sbin")
    put(top, "proc/sys/kernel/modprobe", "/sbin/safe-modprobe\n")
    assert facts(top).ours


def test_a_broken_policy_is_replaced_by_the_built_in_one(top: Path) -> None:
    path = "etc/safe-modprobe/policy.d/10-site.toml"
    put(top, path, "mode = 1\n")
    found = facts(top)
    assert (found.policy, found.policy.settings.trial) == (BUILTIN_POLICY, False)
    assert found.policy_error.startswith(f"{top}/{path}:1: mode: ")
    assert len(found.digest) == 64
    put(top, "run/safe-modprobe/policy.d/00-trial.toml", "[settings]\ntrial = true\n")
    assert facts(top).policy.settings.trial


def test_a_policy_that_others_can_write_has_no_digest(top: Path) -> None:
    (top / "usr/lib/safe-modprobe/policy.d/90-settings.toml").chmod(0o666)
    found = facts(top)
    assert (found.digest, found.policy) == ("", BUILTIN_POLICY)
    assert found.policy_error.endswith("90-settings.toml: others may write it (mode 0666); chmod it to 0644")


def test_without_policy_files_the_built_in_policy_is_in_force(top: Path) -> None:
    put(top, "usr/lib/safe-modprobe/policy.d/90-settings.toml", None)
    found = facts(top)
    assert (found.policy, found.policy_error, found.digest) == (BUILTIN_POLICY, "", "")


def test_the_digest_equals_that_of_sha256sum(tmp_path: Path) -> None:
    files = [(str(tmp_path / name), name.encode() * 9) for name in ("b", "a")]
    for path, content in files:
        Path(path).write_bytes(content)
    command = ["sh", "-c", 'cat "$@" | sha256sum', "sh", *(path for path, _ in files)]
    assert digest(files) == subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    assert digest([]) == ""
    assert digest(files) != digest(files[::-1])


def test_missing_tracefs_and_missing_instance(top: Path) -> None:
    (top / INSTANCE).rename(top / "away")
    assert facts(top).tracing == Tracing(there=False)
    (top / "sys/kernel/tracing/instances").rmdir()
    assert facts(top).tracing == Tracing(tracefs=False, there=False)
    (top / "sys/kernel/debug/tracing/instances").mkdir(parents=True)
    (top / "away").rename(top / "sys/kernel/debug/tracing/instances/safe-modprobe")
    assert facts(top).tracing == Tracing()


def test_missing_modules_of_this_kernel(top: Path) -> None:
    found = read_facts(OWN, CODE, str(top), "6.2")
    assert (found.modules_folder, found.built_in, found.options) == (False, frozenset(), None)


def test_without_modules_builtin_libkmods_index_tells_built_in_modules(top: Path) -> None:
    folder = build_tree(top, [Mod("target")])
    (folder / "modules.builtin").unlink()
    put(
        top,
        "etc/safe-modprobe/policy.d/10-site.toml",
        '[[mark]]\nmodules = ["built-in", "target", "no*"]\nprivileged = true\n',
    )
    assert read_facts(OWN, CODE, str(top), VERSION).built_in == {"built_in"}


def test_without_depmod_indexes_no_module_counts_as_built_in(top: Path) -> None:
    put(top, "lib/modules/6.1/modules.builtin", None)
    put(top, "etc/safe-modprobe/policy.d/10-site.toml", '[[mark]]\nmodules = ["ext4"]\nprivileged = true\n')
    assert facts(top).built_in == frozenset()


def test_the_selinux_label_is_read_only_when_enforcing(top: Path) -> None:
    put(top, "sys/fs/selinux/enforce", "1")
    os.setxattr(top / OWN.lstrip("/"), "security.selinux", b"system_u:object_r:bin_t:s0\0")
    assert facts(top).selinux == Selinux(True, "system_u:object_r:bin_t:s0")
    put(top, "sys/fs/selinux/enforce", "0")
    assert facts(top).selinux == Selinux()


def test_facts_of_this_machine() -> None:
    found = read_facts("/bin/true", "/usr/lib/python3")
    assert found.kernel == os.uname().release
    assert found.stacks, "the tests need root and a kernel with stack traces"
    assert found.programs[0] == Program("/bin/true")
    path = "/proc/sys/kernel/modprobe"
    assert found.current == (Path(path).read_text().strip() if os.path.exists(path) else None)
    assert found.bset & 1 << 16

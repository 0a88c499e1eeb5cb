"""Compile the SELinux module with Debian's reference policy. Fedora's policy is not packaged for Debian."""

import bz2
import subprocess
from pathlib import Path

import pytest

from tests.vm.cache import TOP

MODULE = TOP / "packaging/selinux/safe-modprobe.cil"
POLICY = Path("/usr/share/selinux/default")
TO_CIL = "/usr/libexec/selinux/hll/pp"


def compiled(into: Path, reference: list[Path], *modules: Path) -> subprocess.CompletedProcess[str]:
    """Compile a policy, with neverallow checks. -M 1 enables the levels that file contexts name."""
    command = ["secilc", "-M", "1", "-o", into / "policy", "-f", into / "contexts", *reference, *modules]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return every module of the reference policy, converted to CIL."""
    folder = tmp_path_factory.mktemp("reference")
    for path in POLICY.glob("*.pp.bz2"):
        into = folder / path.name.replace(".pp.bz2", ".cil")
        done = subprocess.run([TO_CIL], input=bz2.decompress(path.read_bytes()), capture_output=True, check=True)
        into.write_bytes(done.stdout)
    return sorted(folder.glob("*.cil"))


@pytest.fixture(scope="module")
def policy(reference: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    done = compiled(folder, reference, MODULE)
    assert done.returncode == 0, done.stderr
    return folder


def rules(policy: Path, *what: str) -> list[str]:
    done = subprocess.run(["sesearch", *what, policy / "policy"], capture_output=True, text=True, check=True)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("path", "context"),
    [
        ("/usr/sbin/safe-modprobe", "system_u:object_r:kmod_exec_t:s0"),
        ("/usr/bin/safe-modprobe", "system_u:object_r:kmod_exec_t:s0"),
        ("/usr/sbin/modprobe", "system_u:object_r:kmod_exec_t:s0"),
        ("/usr/sbin/safe-modprobectl", "system_u:object_r:bin_t:s0"),
        ("/usr/libexec/safe-modprobe/watch", "system_u:object_r:bin_t:s0"),
        ("/run/safe-modprobe/policy.d", "<<none>>"),
    ],
)
def test_the_file_context_of_a_path(policy: Path, path: str, context: str) -> None:
    command = ["matchpathcon", "-f", policy / "contexts", "-m", "file", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == [path, context], done.stderr


def test_the_kernel_runs_the_helper_in_modprobes_domain(policy: Path) -> None:
    assert rules(policy, "-T", "-s", "kernel_t", "-t", "kmod_exec_t", "-c", "process") == [
        "type_transition kernel_t kmod_exec_t:process kmod_t;"
    ]


NEEDS = [
    ("kmod_t", "capability", "sys_module"),  # finit_module(2)
    ("kmod_t", "capability", "sys_admin"),  # /proc/TID/stack
    ("kmod_t", "capability", "sys_ptrace"),
    ("modules_object_t", "file", "map"),
    ("modules_object_t", "system", "module_load"),
    ("user_t", "process", "ptrace"),
    ("user_t", "file", "read"),
    ("user_t", "lnk_file", "read"),
    ("kernel_t", "file", "read"),  # A kernel thread can be the caller.
    ("nsfs_t", "file", "getattr"),
    ("tracefs_t", "file", "write"),
    ("var_run_t", "file", "rename"),
    ("devlog_t", "sock_file", "write"),
    ("syslogd_t", "unix_dgram_socket", "sendto"),
    ("kmsg_device_t", "chr_file", "write"),
    ("bin_t", "file", "execute"),  # Python
    ("kmod_exec_t", "file", "execute_no_trans"),  # The last resort runs modprobe.
]


@pytest.mark.parametrize(("target", "kind", "permission"), NEEDS)
def test_the_domain_has_the_permissions_it_needs(policy: Path, target: str, kind: str, permission: str) -> None:
    assert rules(policy, "-A", "-s", "kmod_t", "-t", target, "-c", kind, "-p", permission)


@pytest.mark.parametrize(
    ("target", "kind", "permission"),
    [
        ("user_t", "process", "transition"),
        ("user_t", "file", "write"),
        ("shadow_t", "file", "read"),
        ("kmod_t", "capability", "setuid"),
        ("sysctl_modprobe_t", "file", "write"),
    ],
)
def test_the_domain_has_no_other_permission(policy: Path, target: str, kind: str, permission: str) -> None:
    assert rules(policy, "-A", "-s", "kmod_t", "-t", target, "-c", kind, "-p", permission) == []


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("kmod_exec_t", "no_such_exec_t", "Failed to resolve filecon"),
        ("nsfs_t (file (getattr))", "nsfs_t (file (sing))", "Failed to resolve permission sing"),
        ("domain (process (getattr ptrace))", "shadow_t (file (read))", "neverallow check failed"),
    ],
)
def test_the_compiler_finds_a_wrong_rule(reference: list[Path], tmp_path: Path, old: str, new: str, why: str) -> None:
    wrong = tmp_path / "safe-modprobe.cil"
    wrong.write_text(MODULE.read_text().replace(old, new))
    done = compiled(tmp_path, reference, wrong)
    assert done.returncode != 0 and why in done.stdout + done.stderr, done.stdout + done.stderr

"""What `enable` looks at before it points the kernel at us, and the one request that it makes after."""

import os

from safe_modprobe.admin.commands import own_kernel
from safe_modprobe.admin.commands.dry_run import dry_run_error
from safe_modprobe.admin.health.helper_checks import check_helper
from safe_modprobe.admin.health.problem import Severity
from safe_modprobe.admin.health.read import changeable_by_others, read_helper_facts
from safe_modprobe.admin.switch import unit
from safe_modprobe.admin.switch.switch import HELPER
from safe_modprobe.callers import self_test
from safe_modprobe.callers.kernel_args import SELF_TEST
from safe_modprobe.errors import SafeModprobeError
from safe_modprobe.kmod import Kmod, KmodError
from safe_modprobe.policy.dropins import FOLDERS
from safe_modprobe.rescue import OFF, rescue_word

_CODE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))

_IN_THE_WAY = frozenset(
    """bset helper-missing helper-noexec helper-not-executable helper-writable lkrg lkrg-block-modules no-modules
    selinux-label static-usermodehelper""".split()
)
"""The problems of `status` that switching on does not mend, and by which it would take modules from root."""

_OTHERS = (
    "/usr/sbin/safe-modprobectl", own_kernel.PROGRAM, "/usr/libexec/safe-modprobe/boot",
    "/usr/libexec/safe-modprobe/watch",
    f"/usr/lib/systemd/system/{unit.UNIT}", f"/lib/systemd/system/{unit.UNIT}",
)  # fmt: skip
"""What root runs besides, where it is installed."""

_REAL = """net-pf-38 net-pf-15 net-pf-29 net-pf-31 net-pf-40 net-pf-2-proto-132-type-1 fs-ext4 fs-xfs fs-btrfs fs-vfat
    fs-fuse fs-overlay fs-nfs fs-cifs rtnl-link-bridge rtnl-link-vlan rtnl-link-bond nfnetlink-subsys-2
    crypto-ecb(aes) crypto-sha512 tty-ldisc-2 xfrm-type-2-50 char-major-10-200 netdev-dummy0""".split()
"""What is asked for on many machines. Each names a module on some kernels, and is built in on others."""

_ENOUGH = 5


def refuse_blockers(for_good: bool) -> None:
    """Raises SafeModprobeError, before anything was changed; `for_good`: with five real requests, dry."""
    if rescue_word() == OFF:
        raise SafeModprobeError(
            "the kernel's command line says safe_modprobe=off, by which the helper leaves every request to modprobe;"
            " nothing was changed, boot without it"
        )
    facts = read_helper_facts(HELPER, _CODE)
    own_kernel.refuse_foreign_kernel()
    for problem in check_helper(facts):
        if problem.severity is Severity.MOOT and problem.key in _IN_THE_WAY:
            raise SafeModprobeError(f"{problem.what}; nothing was changed: {problem.mend}")
    for path in (*_OTHERS, *FOLDERS):
        for other, why in changeable_by_others(path):
            raise SafeModprobeError(
                f"{other}: {why}, so that somebody else than root decides who gets which module; nothing was changed:"
                f" chown root {other}; chmod go-w {other}"
            )
    if for_good:
        _answer_real_requests()


def _answer_real_requests() -> None:
    for alias in _known_here():
        if why := dry_run_error(alias):
            raise SafeModprobeError(
                f"{HELPER}: a dry run for {alias} failed ({why}); nothing was changed: run '{HELPER} -n -- {alias}'"
            )


def _known_here() -> list[str]:
    """Aliases that this kernel has a module for: five, or as many as there are."""
    kmod, found = Kmod(), []
    for alias in _REAL:
        try:
            if any(True for _ in kmod.lookup(alias)):
                found.append(alias)
        except KmodError:
            continue
        if len(found) == _ENOUGH:
            break
    return found


def request_as_root(before: str) -> None:
    """Have the kernel ask for what no module answers, as root. Raises SafeModprobeError if root would not be served.

    `before` is kernel.modprobe as it was, and as it will be after that.
    """
    import socket  # for this alone

    said: list[str] = []
    for alias in SELF_TEST:
        self_test.begin()
        try:
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, int(alias.rpartition("-")[2])).close()
        except OSError:  # as it has to be
            pass
        said = self_test.end() or said
        if any(each.startswith("privileged ") for each in said):
            return
    then = f"kernel.modprobe {f'is still {HELPER}' if before == HELPER else 'was put back'}"
    if said:
        source = said[-1].partition(" ")[2]
        raise SafeModprobeError(
            f"the helper took root's own request for an unprivileged one (source: {source}), so that root would lose"
            f" modules; {then}: 'safe-modprobectl status' says which sources there are"
        )
    raise SafeModprobeError(
        f"the kernel had a request of root's own answered by nobody, though kernel.modprobe was {HELPER}; {then}:"
        " see what the kernel's log says"
    )

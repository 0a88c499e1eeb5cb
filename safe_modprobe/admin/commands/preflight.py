"""The checks of `enable` before it sets kernel.modprobe, and its one test request after."""

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

_BLOCKERS = frozenset(
    """bset helper-missing helper-noexec helper-not-executable helper-writable lkrg lkrg-block-modules no-modules
    selinux-label static-usermodehelper""".split()
)
"""Keys of the `status` problems that `enable` cannot mend, and that would make root lose modules."""

_OTHER_FILES = (
    "/usr/sbin/safe-modprobectl", own_kernel.PROGRAM, "/usr/libexec/safe-modprobe/boot",
    "/usr/libexec/safe-modprobe/watch",
    f"/usr/lib/systemd/system/{unit.UNIT}", f"/lib/systemd/system/{unit.UNIT}",
)  # fmt: skip
"""Other files that root runs, if they are installed."""

_COMMON_ALIASES = """net-pf-38 net-pf-15 net-pf-29 net-pf-31 net-pf-40 net-pf-2-proto-132-type-1 fs-ext4 fs-xfs fs-btrfs
    fs-vfat fs-fuse fs-overlay fs-nfs fs-cifs rtnl-link-bridge rtnl-link-vlan rtnl-link-bond nfnetlink-subsys-2
    crypto-ecb(aes) crypto-sha512 tty-ldisc-2 xfrm-type-2-50 char-major-10-200 netdev-dummy0""".split()
"""Aliases that many machines request. Each names a module on some kernels, and is built in on others."""

_MAX_ALIASES = 5


def refuse_blockers(permanent: bool) -> None:
    """Raise SafeModprobeError if something would break switching on. Change nothing.

    `permanent`: also run the helper dry for five aliases of this machine.
    """
    if rescue_word() == OFF:
        raise SafeModprobeError(
            "the kernel's command line says safe_modprobe=off, so the helper leaves every request to modprobe;"
            " nothing was changed; boot without it"
        )
    facts = read_helper_facts(HELPER, _CODE)
    own_kernel.refuse_foreign_kernel()
    for problem in check_helper(facts):
        if problem.severity is Severity.MOOT and problem.key in _BLOCKERS:
            raise SafeModprobeError(f"{problem.what}; nothing was changed: {problem.mend}")
    for path in (*_OTHER_FILES, *FOLDERS):
        for other, reason in changeable_by_others(path):
            raise SafeModprobeError(
                f"{other}: {reason}, so another user can decide which modules are loaded; nothing was changed:"
                f" run 'chown root {other}; chmod go-w {other}'"
            )
    if permanent:
        _try_common_aliases()


def _try_common_aliases() -> None:
    for alias in _installed_aliases():
        if reason := dry_run_error(alias):
            raise SafeModprobeError(
                f"{HELPER}: a dry run for {alias} failed ({reason}); nothing was changed: run '{HELPER} -n -- {alias}'"
            )


def _installed_aliases() -> list[str]:
    """Return up to five common aliases that this kernel has a module for."""
    kmod, found = Kmod(), []
    for alias in _COMMON_ALIASES:
        try:
            if any(True for _ in kmod.lookup(alias)):
                found.append(alias)
        except KmodError:
            continue
        if len(found) == _MAX_ALIASES:
            break
    return found


def request_as_root(before: str) -> None:
    """As root, make the kernel request an alias that no module answers. Raises SafeModprobeError unless root is served.

    `before` is the value of kernel.modprobe that the caller restores after an error.
    """
    import socket  # Only this function needs it.

    notes: list[str] = []
    for alias in SELF_TEST:
        self_test.begin()
        try:
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, int(alias.rpartition("-")[2])).close()
        except OSError:  # Expected: no module provides the protocol.
            pass
        notes = self_test.end() or notes
        if any(each.startswith("privileged ") for each in notes):
            return
    then = f"kernel.modprobe {f'is still {HELPER}' if before == HELPER else 'was restored'}"
    if notes:
        source = notes[-1].partition(" ")[2]
        raise SafeModprobeError(
            f"the helper took root's own request for an unprivileged one (source: {source}), so root would lose"
            f" modules; {then}: run 'safe-modprobectl status' to see the sources"
        )
    raise SafeModprobeError(
        f"the helper did not answer root's own request, although kernel.modprobe was {HELPER}; {then}:"
        " see the kernel's log"
    )

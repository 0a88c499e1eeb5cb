"""The machine that a subcommand inspects: the running system, or an image below a folder."""

import argparse
import os

from safe_modprobe.admin.modules.inspect_plan import read_plans
from safe_modprobe.errors import UsageError
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import COMMAND_LINE, Plan, Policy, Request
from safe_modprobe.modules.plan import modules_folder
from safe_modprobe.policy.accounts import Accounts
from safe_modprobe.policy.cache import cached_policy
from safe_modprobe.policy.dropins import FOLDERS
from safe_modprobe.policy.files import read_policy
from safe_modprobe.rescue import LOG, rescue_word

_CONFIG = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d")


class Machine(NamedTuple):
    """The values of `--root DIR` and `--kernel VERSION`. None stands for the running system or the running kernel."""

    root: str | None = None
    kernel: str | None = None

    def path(self, absolute: str) -> str:
        """Return the path at which this process finds a file of the machine."""
        return absolute if self.root is None else os.path.join(self.root, absolute.lstrip("/"))

    def folders(self) -> list[str]:
        """Return the folders of the policy; the administrator's folder is the last."""
        return [self.path(folder) for folder in FOLDERS]

    def accounts(self) -> Accounts:
        """Return the users and groups of the machine."""
        return Accounts(self.path("/etc/passwd"), self.path("/etc/group"))

    def uid(self, name: str) -> int:
        """Return the user id for `--user NAME`. Raises UsageError for an unknown name."""
        uid = self.accounts().uid(name)
        if uid is None:
            raise UsageError(f"--user: {name!a} is not in /etc/passwd; give --uid instead")
        return uid

    def policy(self) -> Policy:
        """Return the policy of the machine. Raises PolicyError.

        For the running system, a trial that the kernel command line asks for is taken into account.
        """
        policy = (cached_policy(FOLDERS) if self.root is None else None) or read_policy(self.folders(), self.accounts())
        return policy.in_trial(COMMAND_LINE) if self.root is None and rescue_word() == LOG else policy

    def modules(self) -> str | None:
        """Return the folder of its modules. None lets libkmod choose that of the running kernel."""
        return modules_folder(self.root, self.kernel)

    def folder(self) -> str:
        """Return the path of the folder of its modules, also for the running kernel. The folder may be missing."""
        return self.modules() or str(modules_folder("/", None))

    def release(self) -> str:
        """Return the kernel version."""
        return os.path.basename(self.folder())

    def running(self) -> bool:
        """Return whether this is the running system with its running kernel, so that loaded modules count."""
        return self.root is None and self.release() == os.uname().release

    def config(self) -> list[str] | None:
        """Return the folders of its modprobe.d. None lets libkmod choose those of the running system."""
        return None if self.root is None else [self.path(folder) for folder in _CONFIG]

    def plan(self, request: Request, as_if_new: bool = False) -> Plan:
        """Return the plan for a request. Raises OSError, and UsageError if there are no modules.

        With `as_if_new`, and always for another machine or kernel, the plan assumes that no module is loaded.
        """
        return next(read_plans([request], self.modules(), self.config(), as_if_new or not self.running()))


def from_arguments(arguments: argparse.Namespace) -> Machine:
    """Return the machine that the options select. Raises UsageError for a wrong --root or --kernel."""
    root, kernel = arguments.root, getattr(arguments, "kernel", None)
    if root is not None and not os.path.isdir(root):
        raise UsageError(f"--root: {root}: no such folder; give the root folder of a system")
    if kernel is not None and (kernel in ("", ".", "..") or "/" in kernel):
        raise UsageError(
            f"--kernel: {kernel!a} is not a kernel version; 'uname -r' prints one, and /lib/modules lists them"
        )
    if root is not None and "kernel" in arguments and kernel is None:
        kernel = _only_kernel(root)
    return Machine(root, kernel)


def _only_kernel(root: str) -> str | None:
    """Return the version of the only kernel of an image, or None for the running kernel.

    None also stands for an image without a folder of modules. Raises UsageError if the choice is not clear.
    """
    for folder in ("lib/modules", "usr/lib/modules"):
        try:
            versions = os.listdir(os.path.join(root, folder))
        except OSError:
            continue
        if os.uname().release in versions:
            return None
        if len(versions) == 1:
            return versions[0]
        raise UsageError(f"--kernel: give one of the kernels in {root}: {', '.join(sorted(versions)) or 'none found'}")
    return None

"""The machine that a subcommand looks at: the running one, or an image below a folder."""

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
    """`--root DIR` and `--kernel VERSION`; None stands for the running system's own."""

    root: str | None = None
    kernel: str | None = None

    def path(self, absolute: str) -> str:
        """Where a file of that machine is for us."""
        return absolute if self.root is None else os.path.join(self.root, absolute.lstrip("/"))

    def folders(self) -> list[str]:
        """The policy's folders, the admin's last."""
        return [self.path(folder) for folder in FOLDERS]

    def accounts(self) -> Accounts:
        """That machine's users and groups."""
        return Accounts(self.path("/etc/passwd"), self.path("/etc/group"))

    def uid(self, name: str) -> int:
        """The number of `--user NAME`. Raises UsageError for nobody of that name."""
        uid = self.accounts().uid(name)
        if uid is None:
            raise UsageError(f"--user: {name!a} is not in /etc/passwd; give --uid instead")
        return uid

    def policy(self) -> Policy:
        """That machine's policy; the running one's as its kernel's command line has it. Raises PolicyError."""
        policy = (cached_policy(FOLDERS) if self.root is None else None) or read_policy(self.folders(), self.accounts())
        return policy.in_trial(COMMAND_LINE) if self.root is None and rescue_word() == LOG else policy

    def modules(self) -> str | None:
        """The folder of its modules; None, libkmod's own choice, for the running kernel."""
        return modules_folder(self.root, self.kernel)

    def folder(self) -> str:
        """That folder by its path, for the running kernel, too. It may not be there."""
        return self.modules() or str(modules_folder("/", None))

    def release(self) -> str:
        """The kernel's version."""
        return os.path.basename(self.folder())

    def running(self) -> bool:
        """Whether it is this very machine with the kernel that runs on it: what is loaded here is loaded there."""
        return self.root is None and self.release() == os.uname().release

    def config(self) -> list[str] | None:
        """The folders of its modprobe.d; None, libkmod's own choice, for the running system."""
        return None if self.root is None else [self.path(folder) for folder in _CONFIG]

    def plan(self, request: Request, as_if_new: bool = False) -> Plan:
        """What the alias would bring in there; `as_if_new`, and on any other machine always: were none loaded yet.

        Raises OSError, UsageError where there are no modules.
        """
        return next(read_plans([request], self.modules(), self.config(), as_if_new or not self.running()))


def from_arguments(arguments: argparse.Namespace) -> Machine:
    """The machine that the options name. Raises UsageError for a root that is no folder, a kernel that is no name."""
    root, kernel = arguments.root, getattr(arguments, "kernel", None)
    if root is not None and not os.path.isdir(root):
        raise UsageError(f"--root: {root}: no such folder; give the top of a system's files")
    if kernel is not None and (kernel in ("", ".", "..") or "/" in kernel):
        raise UsageError(
            f"--kernel: {kernel!a} is no kernel's version; 'uname -r' prints one, and /lib/modules has them"
        )
    if root is not None and "kernel" in arguments and kernel is None:
        kernel = _only_kernel(root)
    return Machine(root, kernel)


def _only_kernel(root: str) -> str | None:
    """The version, where an image has just one kernel's modules; the running one's where it has that."""
    for folder in ("lib/modules", "usr/lib/modules"):
        try:
            versions = os.listdir(os.path.join(root, folder))
        except OSError:
            continue
        if os.uname().release in versions:
            return None
        if len(versions) == 1:
            return versions[0]
        raise UsageError(f"--kernel: {root} has {', '.join(sorted(versions)) or 'no kernel'}; name one of them")
    return None

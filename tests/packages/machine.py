"""Run a package's maintainer scripts in a root that acts as a machine of its own."""

import subprocess
from pathlib import Path

SWITCH = "/proc/sys/kernel/modprobe"
HELPER = "/usr/sbin/safe-modprobe"

BEFORE = "/run/safe-modprobe/modprobe.before"
ON = f"echo {HELPER} >{SWITCH}; mkdir -p /run/safe-modprobe; printf /usr/sbin/modprobe >{BEFORE}; "
OTHER = f"echo /opt/helper >{SWITCH}; "


class Machine:
    """A root with its own PID namespace. A file in it stands for kernel.modprobe, called its switch.

    The real sysctl belongs to this machine, and its kernel may not even support modules.
    """

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.switch = tree / "switch/modprobe"
        self.switch.parent.mkdir()
        self.switch.write_text("/sbin/modprobe\n")

    def run(self, script: str, before: str = "exec") -> None:
        """Run a shell script in the root, and fail if it fails.

        With `before` as "exec" the script shares the root of PID 1, as on a real system. With "" it runs in a chroot.
        """
        inside = f"""mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"
            mount --bind "$1/switch" "$1/proc/sys/kernel"
            {before} chroot "$1" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -euxc "$2" """
        space = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "sh", "-euc", inside, "sh"]
        done = subprocess.run([*space, self.tree, script], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def now(self) -> str:
        """Return the path of the kernel's helper."""
        return self.switch.read_text().splitlines()[0]

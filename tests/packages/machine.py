"""A root as a machine of its own, for what packages do when they come and go."""

import subprocess
from pathlib import Path

SWITCH = "/proc/sys/kernel/modprobe"
HELPER = "/usr/sbin/safe-modprobe"

BEFORE = "/run/safe-modprobe/modprobe.before"
ON = f"echo {HELPER} >{SWITCH}; mkdir -p /run/safe-modprobe; printf /usr/sbin/modprobe >{BEFORE}; "
OTHER = f"echo /opt/helper >{SWITCH}; "


class Machine:
    """A root as a machine of its own: its first process is in it, and a file is its switch.

    The real switch is this machine's, whose kernel may not even have modules.
    """

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.switch = tree / "switch/modprobe"
        self.switch.parent.mkdir()
        self.switch.write_text("/sbin/modprobe\n")

    def run(self, script: str, before: str = "exec") -> None:
        inside = f"""mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"
            mount --bind "$1/switch" "$1/proc/sys/kernel"
            {before} chroot "$1" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -euxc "$2" """
        space = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "sh", "-euc", inside, "sh"]
        done = subprocess.run([*space, self.tree, script], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def now(self) -> str:
        return self.switch.read_text().splitlines()[0]

"""Guest roots, made by mmdebstrap from the machine's own apt sources, and kept as cpio archives."""

from pathlib import Path

from tests.vm.cache import TOP, Progress, cached, digest, run, say
from tests.vm.kernels import KEYRING, NATIVE, mirror

_BARE = ["kmod", "iproute2", "python3", "python3-tomli", "libkmod2", "libzstd1", "procps"]
_PROGRAMS = """bubblewrap cifs-utils cryptsetup-bin dmsetup dosfstools e2fsprogs fuse3 ipset iptables iw
    nfs-kernel-server nftables python3-rich squashfs-tools squashfuse uidmap wireguard-tools xfsprogs""".split()
"""Those of policy.d's promise: who must still get through, and by what."""

PACKAGES = {
    "bare": _BARE,
    "programs": [*_BARE, *_PROGRAMS],
    "systemd": [*_BARE, "systemd", "systemd-sysv", "udev", "dbus"],
}
_EXCLUDED = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/zoneinfo/*")


def root(name: str, progress: Progress = say) -> Path:
    """The root's archive, root.cpio, with the folder beside it that it was made from."""
    packages = PACKAGES[name]
    return cached(f"root-{name}", digest(*packages, Path(__file__)), lambda into: _make(into, packages), progress)


def _make(into: Path, packages: list[str]) -> None:
    tree = into / "tree"
    # Left to itself, mmdebstrap asks Debian's default hosts, which this machine may not reach.
    source = f"deb [signed-by={KEYRING}] {mirror()} {NATIVE} main"
    excluded = [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
    included = f"--include={','.join(packages)}"
    run(
        ["mmdebstrap", "--quiet", "--variant=minbase", included, *excluded, NATIVE, tree, source],
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/perl", "usr/share/info"):
        run(["rm", "-rf", tree / waste])
    archive(tree, into / "root.cpio")


def archive(tree: Path, to: Path) -> None:
    """A folder as an uncompressed newc archive, which the kernel unpacks fastest."""
    run(["sh", "-c", 'cd "$1" && find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0 > "$2"', "sh", tree, to])


def product(progress: Progress = say) -> Path:
    """What `make install` installs, as product.cpio."""
    parts = [TOP / name for name in ("safe_modprobe", "policy.d", "packaging", "setup.py", "Makefile")]
    key = digest(*[part for part in parts if part.exists()])

    def make(into: Path) -> None:
        run(["make", "-C", TOP, "install", f"DESTDIR={into}/tree", "PYTHON=/usr/bin/python3"])
        archive(into / "tree", into / "product.cpio")

    return cached("product", key, make, progress)

"""Make root file systems of guests, by mmdebstrap from the host's Debian mirror."""

from inspect import getsource
from pathlib import Path

from tests.vm.cache import Progress, cached, digest, run, run_again, say
from tests.vm.kernels import KEYRING, NATIVE, mirror

_BARE = ["kmod", "iproute2", "python3", "python3-tomli", "python3-tomlkit", "libkmod2", "libzstd1", "procps"]
_PROGRAMS = """bubblewrap busybox-static cifs-utils cryptsetup-bin dmsetup dosfstools e2fsprogs fuse3 ipset iptables iw
    nfs-kernel-server nftables python3-rich squashfs-tools squashfuse uidmap wireguard-tools xfsprogs""".split()
"""Programs that must keep working under the default policy (docs/default-policy.md)."""
_ROOTLESS = "aardvark-dns crun fuse-overlayfs netavark passt podman slirp4netns".split()
"""Rootless Podman and what it runs, for the measurements in docs/rootless.md."""
_BUILD = """build-essential cython3 debhelper dh-python libkmod-dev libzstd-dev pkgconf python3-dev python3-pyelftools
    python3-pytest python3-setuptools python3-shtab scdoc xz-utils zstd""".split()
_SYSTEM = """dbus jq python3-junitparser python3-prometheus-client python3-pyelftools python3-rich python3-systemd
    systemd systemd-sysv udev""".split()

PACKAGES = {
    "bare": _BARE,
    "build": [*_BARE, *_BUILD],
    "fleet": [*_BARE, "python3-apt", "rpm", "systemd"],
    "programs": [*_BARE, *_PROGRAMS, *_ROOTLESS],
    "systemd": [*_BARE, *_SYSTEM],
}
SUITES = ("trixie", "sid")
"""Releases besides NATIVE. A root's name ends with one of these, as in `bare-trixie`, or means NATIVE."""

_EXCLUDED = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/zoneinfo/*")


def suite_of(name: str) -> str:
    """Return the Debian release of a root's name."""
    suite = name.rpartition("-")[2]
    return suite if suite in SUITES else NATIVE


def root(name: str, progress: Progress = say) -> Path:
    """Return a folder whose `tree` is this root."""
    suite = suite_of(name)
    packages = PACKAGES[name.removesuffix(f"-{suite}")]
    key = digest(suite, *packages, *_EXCLUDED, getsource(_make))
    return cached(f"root-{name}", key, lambda into: _make(into, suite, packages), progress)


def _make(into: Path, suite: str, packages: list[str]) -> None:
    tree = into / "tree"
    # Left to itself, mmdebstrap asks Debian's default hosts, which this machine may not reach.
    source = f"deb [signed-by={KEYRING}] {mirror()} {suite} main"
    excluded = [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
    options = [f"--include={','.join(packages)}", *excluded]
    if suite != NATIVE:  # a mirror may keep a copy of sid that is past its date
        options.append('--aptopt=Acquire::Check-Valid-Until "false"')
    run_again(
        ["mmdebstrap", "--quiet", "--variant=minbase", *options, suite, tree, source],
        clear=tree,
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    waste = ["var/cache/apt", "var/lib/apt/lists", "usr/share/info"]
    if "debhelper" not in packages:  # which is in Perl
        waste.append("usr/share/perl")
    run(["rm", "-rf", *(tree / each for each in waste)])

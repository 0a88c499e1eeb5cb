"""Rootless Podman as uid 1000: what it asks the kernel for, what the default policy keeps from it, and what mends that."""

import os
import shutil

from guest import Guest
from people import static_nodes

EXAMPLE = "/usr/share/safe-modprobe/examples/30-rootless-containers.toml"
ADMIN = "/etc/safe-modprobe/policy.d/30-rootless-containers.toml"
MEASURED: set[str] = set()
"""Linux 6.1, Podman 4.3, netavark 1.4 with iptables over nftables; docs/rootless.md has it in words."""

PREPARE = """set -e
mount --make-rshared / && mkdir -p /dev/shm /dev/mqueue && mount -t tmpfs -o mode=1777 shm /dev/shm && mount -t mqueue mqueue /dev/mqueue
grep -q ^user: /etc/passwd || echo user:x:1000:1000::/home/user:/bin/sh >> /etc/passwd
grep -q ^user: /etc/group || echo user:x:1000: >> /etc/group
echo user:100000:65536 > /etc/subuid; echo user:100000:65536 > /etc/subgid
mkdir -p /home /run/user/1000 /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup
truncate -s 1G /run/home && mkfs.ext4 -q /run/home && mount -o loop /run/home /home
mkdir -p /home/user/root/bin /home/user/root/etc && cp /bin/busybox /home/user/root/bin && ln -sf busybox /home/user/root/bin/sh
for name in true ip wget; do ln -sf busybox /home/user/root/bin/$name; done
chown -R 1000:1000 /home/user /run/user/1000
mkdir -p /etc/containers && echo '{"default":[{"type":"insecureAcceptAnything"}]}' > /etc/containers/policy.json
"""
PODMAN = (
    "setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all env HOME=/home/user XDG_RUNTIME_DIR=/run/user/1000"
    " podman --cgroup-manager=cgroupfs --runtime=crun --events-backend=none"
)
RUN = f"{PODMAN} run --rm --cgroups=disabled --log-driver=none"


def setup(guest: Guest) -> None:
    """Before each test: switched on, and none of what containers need in the kernel."""
    if not os.path.exists("/home/user/root"):
        static_nodes()
        done = guest.sh(PREPARE)
        assert done.returncode == 0, done.stderr
    if not guest.enabled():
        done = guest.sh("safe-modprobectl enable --runtime")
        assert done.returncode == 0, done.stderr
    guest.sh(f"rm -f {ADMIN}")


def asked(guest: Guest, known: int) -> list[str]:
    """Verdict, alias and modules of each record since."""
    return [line.partition(" to ")[0] for line in guest.log()[known:]]


def podman(guest: Guest, options: str):
    """(how it ended, what it had the kernel ask for)."""
    known = len(guest.log())
    done = guest.sh(f"cd /; {RUN} {options}", timeout=110)
    return done, asked(guest, known)


def test_without_a_network_it_asks_for_nothing(guest: Guest) -> None:
    done, said = podman(guest, "--network=none --rootfs /home/user/root /bin/true")
    assert (done.returncode, said) == (0, []), done.stderr


def test_its_own_overlay_is_open_to_users(guest: Guest) -> None:
    done, said = podman(guest, "--network=none --rootfs /home/user/root:O /bin/true")
    assert (done.returncode, said) == (0, ["allowed 'fs-overlay' (overlay)"]), done.stderr


def test_its_usual_network_is_open_to_users(guest: Guest) -> None:
    done, said = podman(guest, "--network=slirp4netns --rootfs /home/user/root /bin/ip address")
    assert (done.returncode, said) == (0, ["allowed 'char-major-10-200' (tun)"]), done.stderr
    assert "tap0" in done.stdout


def test_a_bridge_is_refused_by_default(guest: Guest) -> None:
    done, said = podman(guest, "--network=podman --rootfs /home/user/root /bin/ip address")
    assert done.returncode != 0 and any(each.startswith("denied") for each in said), (done, said)
    assert not {"bridge", "veth", "nf_tables"} & guest.modules()


def test_a_bridge_works_with_the_example(guest: Guest) -> None:
    shutil.copy(EXAMPLE, ADMIN)
    done, said = podman(guest, "--network=podman -p 8080:80 --rootfs /home/user/root /bin/ip address")
    assert done.returncode == 0, (done.stderr, said)
    assert "eth0" in done.stdout
    assert not [each for each in said if not each.startswith("allowed")], said
    found = {each.partition(" ")[2] for each in said} - {"'char-major-10-200' (tun)"}
    assert found == MEASURED, found


def test_the_example_opens_nothing_else(guest: Guest) -> None:
    shutil.copy(EXAMPLE, ADMIN)
    for command in ("ip link add w0 type wireguard", "ip link add b0 type bond", "tc qdisc add dev lo root qfq"):
        guest.sh(f"setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all unshare -Urn {command}")
    assert not {"wireguard", "bonding", "sch_qfq"} & guest.modules()

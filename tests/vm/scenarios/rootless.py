"""Rootless Podman as uid 1000: its module requests, which of them are refused, and what makes them succeed."""

import os
import shutil

from guest import Guest
from program_setup import static_nodes, unload_with_users

EXAMPLE = "/usr/share/safe-modprobe/examples/30-rootless-containers.toml"
ADMIN = "/etc/safe-modprobe/policy.d/30-rootless-containers.toml"
EXPECTED = {
    "'rtnl-link-bridge' (llc, stp, bridge)",
    "'rtnl-link-veth' (veth)",
    "'net-pf-16-proto-12' (nfnetlink)",
    "'nfnetlink-subsys-10' (libcrc32c, nf_tables)",
    "'nfnetlink-subsys-11' (x_tables, nft_compat)",
    "'nft-chain-2-nat' (nft_chain_nat)",
    "'ipt_MASQUERADE' (nf_defrag_ipv4, nf_defrag_ipv6, nf_conntrack, nf_nat, xt_MASQUERADE)",
    "'ipt_DNAT' (xt_nat)",
    "'ipt_MARK' (xt_mark)",
    "'ipt_addrtype' (xt_addrtype)",
    "'ipt_comment' (xt_comment)",
    "'ipt_conntrack' (xt_conntrack)",
    "'ipt_tcp' (xt_tcpudp)",
}
"""The requests of a bridge network, with Linux 6.1, Podman 4.3 and netavark 1.4 on iptables-nft (docs/rootless.md)."""

UPLINK = """set -e
ip link add up0 type dummy; ip address add 192.0.2.2/24 dev up0; ip link set up0 up; ip route add default via 192.0.2.1"""
"""A default route. Without one, this version of pasta gives up before it opens its device."""

NFTABLES = """unshare --user --map-root-user --net nft '
add table inet t
add chain inet t out { type nat hook postrouting priority 100; }
add chain inet t in { type nat hook prerouting priority -100; }
add rule inet t out ct state established accept
add rule inet t out ip saddr 10.88.0.0/16 masquerade
add rule inet t in fib daddr type local tcp dport 8080 dnat ip to 10.88.0.2:80'
"""
"""Rules that load the modules that netavark 1.14 (Podman 5) needs. Debian 12 has an older netavark."""

AT_BOOT = (
    "bridge veth nf_tables nft_chain_nat nft_ct nft_fib_inet nft_masq nft_nat"
    " nft_compat xt_addrtype xt_comment xt_conntrack xt_mark xt_MASQUERADE xt_nat xt_tcpudp"
)
"""The modules in docs/rootless.md's /etc/modules-load.d/rootless-containers.conf. Others load as dependencies."""

PREPARE = """set -e
mount --make-rshared / && mkdir -p /dev/shm /dev/mqueue && mount -t tmpfs -o mode=1777 shm /dev/shm && mount -t mqueue mqueue /dev/mqueue
grep -q ^user: /etc/passwd || echo user:x:1000:1000::/home/user:/bin/sh >> /etc/passwd
grep -q ^user: /etc/group || echo user:x:1000: >> /etc/group
echo user:100000:65536 > /etc/subuid; echo user:100000:65536 > /etc/subgid
mkdir -p /run/user/1000 /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /home/user/root/bin /home/user/root/etc && cp /bin/busybox /home/user/root/bin && ln -sf busybox /home/user/root/bin/sh
for name in true ip wget; do ln -sf busybox /home/user/root/bin/$name; done
chown -R 1000:1000 /home/user /run/user/1000
mkdir -p /etc/containers && echo '{"default":[{"type":"insecureAcceptAnything"}]}' > /etc/containers/policy.json
"""
CONTAINERS = {"bridge", "veth", "nf_tables", "nft_masq", "nft_compat", "xt_MASQUERADE", "nf_conntrack"}
ROOTFUL = (
    "podman --root=/run/rootful --storage-driver=vfs --cgroup-manager=cgroupfs --runtime=crun --events-backend=none"
)
USER = "setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all"
PODMAN = (
    f"{USER} env HOME=/home/user XDG_RUNTIME_DIR=/run/user/1000"
    " podman --cgroup-manager=cgroupfs --runtime=crun --events-backend=none"
)
RUN = f"{PODMAN} run --rm --cgroups=disabled --log-driver=none"


def setup(guest: Guest) -> None:
    """Switch safe-modprobe on with the default policy only, before each test."""
    if not os.path.exists("/home/user/root"):
        static_nodes()
        done = guest.sh(PREPARE)
        assert done.returncode == 0, done.stderr
    guest.switch_on()
    guest.sh(f"rm -f {ADMIN}")


def records_since(guest: Guest, known: int) -> list[str]:
    """Return verdict, alias and modules of each record after the first `known` ones."""
    return [line.partition(" to ")[0] for line in guest.log()[known:]]


def podman(guest: Guest, options: str):
    """Run a container with these options. Return (completed process, records of its requests)."""
    known = len(guest.log())
    done = guest.sh(f"cd /; {RUN} {options}", timeout=110)
    return done, records_since(guest, known)


def test_without_a_network_it_asks_for_nothing(guest: Guest) -> None:
    done, records = podman(guest, "--network=none --rootfs /home/user/root /bin/true")
    assert (done.returncode, records) == (0, []), done.stderr


def test_its_own_overlay_is_open_to_users(guest: Guest) -> None:
    done, records = podman(guest, "--network=none --rootfs /home/user/root:O /bin/true")
    assert (done.returncode, records) == (0, ["allowed 'fs-overlay' (overlay)"]), done.stderr


def test_its_usual_network_is_open_to_users(guest: Guest) -> None:
    done, records = podman(guest, "--network=slirp4netns --rootfs /home/user/root /bin/ip address")
    assert (done.returncode, records) == (0, ["allowed 'char-major-10-200' (tun)"]), done.stderr
    assert "tap0" in done.stdout


def test_pasta_asks_for_the_same(guest: Guest) -> None:
    """pasta is the default network of Podman 5. Debian 12's Podman does not support it, so it runs alone."""
    assert guest.sh(f"rmmod tun; {UPLINK}").returncode == 0
    known = len(guest.log())
    done = guest.sh(f"{USER} pasta --config-net -- ip address", timeout=60)
    guest.sh("ip link del up0; rmmod dummy")
    assert (done.returncode, records_since(guest, known)) == (0, ["allowed 'char-major-10-200' (tun)"]), done.stderr
    assert "192.0.2.2" in done.stdout


def test_a_bridge_is_refused_by_default(guest: Guest) -> None:
    done, records = podman(guest, "--network=podman --rootfs /home/user/root /bin/ip address")
    assert done.returncode != 0 and any(each.startswith("denied") for each in records), (done, records)
    assert "Error: netavark: " in done.stderr, done.stderr
    assert not {"bridge", "veth", "nf_tables"} & guest.modules()


def test_a_bridge_works_with_the_example(guest: Guest) -> None:
    """The network has IPv6, which needs no further module."""
    shutil.copy(EXAMPLE, ADMIN)
    assert guest.sh(f"cd /; {PODMAN} network create --ipv6 six").returncode == 0
    done, records = podman(guest, "--network=six -p 8080:80 --rootfs /home/user/root /bin/ip address")
    assert done.returncode == 0, (done.stderr, records)
    assert "eth0" in done.stdout and "inet6 fd" in done.stdout
    assert not [each for each in records if not each.startswith("allowed")], records
    found = {each.partition(" ")[2] for each in records} - {"'char-major-10-200' (tun)"}
    assert found == EXPECTED, found


def test_nftables_works_with_the_example(guest: Guest) -> None:
    """The same commands are refused without the example, so its rows make the difference."""
    done = guest.sh(f"{USER} {NFTABLES}")
    assert done.returncode != 0 and "nft_masq" not in guest.modules()
    shutil.copy(EXAMPLE, ADMIN)
    known = len(guest.log())
    done = guest.sh(f"{USER} {NFTABLES}")
    records = records_since(guest, known)
    assert done.returncode == 0, (done.stderr, records)
    assert not [each for each in records if not each.startswith("allowed")], records
    assert {"nft_ct", "nft_fib_inet", "nft_masq", "nft_nat"} <= guest.modules(), records


def test_what_was_loaded_at_boot_needs_no_row(guest: Guest) -> None:
    assert guest.sh(f"modprobe -a {AT_BOOT}").returncode == 0
    done, records = podman(guest, "--network=podman -p 8080:80 --rootfs /home/user/root /bin/ip address")
    assert (done.returncode, records) == (0, []), done.stderr
    assert guest.sh(f"{USER} {NFTABLES}").returncode == 0


def test_the_example_opens_nothing_else(guest: Guest) -> None:
    shutil.copy(EXAMPLE, ADMIN)
    for command in (
        "ip link add w0 type wireguard",
        "ip link add b0 type bond",
        "ip link add d0 type dummy",
        "tc qdisc add dev lo root qfq",
        "nft add table t '{ chain c { type filter hook input priority 0; limit rate 1/second; log; }; }'",
    ):
        assert guest.sh(f"{USER} unshare --user --map-root-user --net {command}").returncode != 0, command
    assert not {"wireguard", "bonding", "dummy", "sch_qfq", "nft_limit", "nft_log"} & guest.modules()


def test_rootful_podman_needs_no_row(guest: Guest) -> None:
    """This test is the last: it unloads what the others loaded, so that root's requests load it again."""
    assert guest.sh("nft flush ruleset").returncode == 0
    for name in CONTAINERS:
        unload_with_users(guest, name)
    assert not CONTAINERS & guest.modules(), "some cannot be unloaded, so this test would prove nothing"
    known = len(guest.log())
    done = guest.sh(
        f"cd /; {ROOTFUL} run --rm --cgroups=disabled --log-driver=none --network=podman -p 8082:80"
        " --rootfs /home/user/root /bin/ip address",
        timeout=110,
    )
    records = records_since(guest, known)
    assert done.returncode == 0 and "eth0" in done.stdout, (done.stderr, records)
    assert not [each for each in records if not each.startswith("allowed")], records
    assert CONTAINERS - {"nft_masq"} <= guest.modules()

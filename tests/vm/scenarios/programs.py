"""Real programs that must keep working under the default policy, one row for each use."""

import os

from guest import Guest
from program_setup import prepare, run_after_unloading

IMAGES = "/run/images"

# name: (caller, command, modules that must be loaded afterwards)
ROWS = {
    # wg-quick, NetworkManager, networkd
    "wireguard by root": ("root", "ip link add wg0 type wireguard; ip link del wg0", "wireguard"),
    "wireguard by an ambient CAP_NET_ADMIN": ("net-admin", "ip link add wg0 type wireguard; ip link del wg0", "wireguard"),
    # docker, rootful podman, libvirt, firewalld, CNI
    "veth by root": ("root", "ip link add v0 type veth; ip link del v0", "veth"),
    "bridge by root": ("root", "ip link add br0 type bridge; ip link del br0", "bridge"),
    "vxlan by root": ("root", "ip link add x0 type vxlan id 1 dstport 0; ip link del x0", "vxlan"),
    "macvlan by root": ("root", "ip link add d0 type dummy; ip link add m0 link d0 type macvlan; ip link del d0", "macvlan dummy"),
    "nft by root": (
        "root",
        "nft 'add table t; add chain t c { type nat hook postrouting priority 100; }; add rule t c masquerade';"
        " nft delete table t",
        "nf_tables nft_masq nft_chain_nat",
    ),
    "nft by an ambient CAP_NET_ADMIN": ("net-admin", "nft add table t; nft delete table t", "nf_tables"),
    "iptables over nftables by root": (
        "root",
        "iptables-nft -t nat -A POSTROUTING -j MASQUERADE; iptables-nft -t nat -F",
        "nft_compat xt_MASQUERADE",
    ),
    "iptables-legacy by root": (
        "root",
        "iptables-legacy -t nat -A POSTROUTING -j MASQUERADE; iptables-legacy -t nat -F",
        "iptable_nat xt_MASQUERADE",
    ),
    "a module's own request below iptables": (
        "root",
        "iptables-legacy -A INPUT -p icmp -j LOG; iptables-legacy -F; modprobe -n nf_log_syslog",
        "xt_LOG nf_log_syslog",
    ),
    "a match's own request below iptables": (
        "root",
        "iptables-legacy -A FORWARD -m physdev --physdev-is-bridged -j ACCEPT; iptables-legacy -F",
        "xt_physdev br_netfilter",
    ),
    "IPVS by keepalived's CAP_NET_ADMIN": ("net-admin", "python3 /agent/program_setup.py genl IPVS", "ip_vs"),
    "ipset by root": ("root", "ipset create s hash:ip; ipset destroy s", "ip_set ip_set_hash_ip"),
    "tc by root": ("root", "tc qdisc add dev lo root qfq; tc qdisc del dev lo root", "sch_qfq"),
    "overlay by root": ("root", "cd /run && mkdir -p l u w m && mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m && umount m", "overlay"),
    # a process in a rootful container: its own network namespace, the initial user namespace
    "a container's CAP_NET_ADMIN": ("net-admin-container", "ip link add v0 type veth; ip link del v0", "veth"),
    # rootless containers and sandboxes
    "tun by a user": ("user", "python3 -c 'open(\"/dev/net/tun\")'", "tun"),
    "overlay by root of a user namespace": (
        "userns",
        "mkdir -p /tmp/o && cd /tmp/o && mkdir -p l u w m && mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m",
        "overlay",
    ),
    "bubblewrap by a user": ("user", "bwrap --unshare-all --ro-bind / / true", ""),
    # mounts, loop and LVM
    "ext4 from a loop device by root": ("root", "mount -o loop,ro /run/images/ext4 /mnt && umount /mnt", "loop"),
    "xfs by root": ("root", "mount -o loop,ro /run/images/xfs /mnt && umount /mnt", "xfs"),
    "vfat by root, with its character set": ("root", "mount -o loop,ro /run/images/vfat /mnt && umount /mnt", "vfat nls_cp437"),
    "squashfs by root": ("root", "mount -o loop,ro /run/images/squashfs /mnt && umount /mnt", "squashfs"),
    "exfat by root": ("root", "mount -t exfat -o loop,ro /run/images/ext4 /mnt", "exfat"),
    "iso9660 by root": ("root", "mount -t iso9660 -o loop,ro /run/images/ext4 /mnt", "isofs"),
    "a device mapper target by root": (
        "root",
        "loop=$(losetup -f --show /run/images/ext4) && dmsetup create s --table \"0 8 snapshot-origin $loop\" && dmsetup remove s;"
        " losetup -d $loop",
        "dm_mod dm_snapshot",
    ),
    "a loop device's node by root": ("root", "mknod /run/loop b 7 0; dd if=/run/loop count=0", "loop"),
    # LUKS
    "dm-crypt with xts(aes) by root": (
        "root",
        "echo secret | cryptsetup -q open /run/images/luks c && cryptsetup close c",
        "dm_crypt xts",
    ),
    "LUKS by homed's CAP_SYS_ADMIN, without AF_ALG": (
        "sys-admin",
        "echo secret | cryptsetup -q open /run/images/luks c && cryptsetup close c",
        "dm_crypt xts",
    ),
    "dm-crypt with ESSIV by homed's CAP_SYS_ADMIN": (
        "sys-admin",
        "echo secret | cryptsetup -q open --type plain -c aes-cbc-essiv:sha256 -s 256 -h sha256 /run/images/ext4 c"
        " && cryptsetup close c",
        "dm_crypt essiv",
    ),
    "cryptsetup benchmark by root": ("root", "cryptsetup benchmark -c aes-xts -s 256", "af_alg algif_skcipher"),
    # IPsec, L2TP, PPP
    "esp by root": (
        "root",
        "ip xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 1 enc 'cbc(aes)' 0x01020304050607080910111213141516"
        " auth 'hmac(sha1)' 0x0102030405060708091011121314151617181920; ip xfrm state flush",
        "esp4 xfrm_user",
    ),
    "esp by charon, that keeps CAP_NET_ADMIN": (
        "net-admin",
        "ip xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 1 enc 'cbc(aes)' 0x01020304050607080910111213141516"
        " auth 'hmac(sha1)' 0x0102030405060708091011121314151617181920; ip xfrm state flush",
        "esp4 xfrm_user",
    ),
    "esp with extended numbers by charon, that keeps CAP_NET_ADMIN": (
        "net-admin",
        "ip xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 2 replay-window 64 flag esn"
        " auth 'hmac(sha1)' 0x0102030405060708091011121314151617181920 enc 'cbc(aes)' 0x01020304050607080910111213141516;"
        " ip xfrm state flush",
        "esp4 authencesn",
    ),
    "PF_KEY by setkey": ("root", "python3 -c 'import socket; socket.socket(15, 3, 2)'", "af_key"),
    "l2tp by root": ("root", "ip l2tp add tunnel tunnel_id 1 peer_tunnel_id 1 encap ip local 127.0.0.1 remote 127.0.0.1", "l2tp_netlink"),
    "PPPoE by root": ("root", "python3 -c 'import socket; socket.socket(24, 2, 0)'", "pppoe"),
    "PPTP by root": ("root", "python3 -c 'import socket; socket.socket(24, 2, 2)'", "pptp"),
    "PPP by root": ("root", "python3 /agent/program_setup.py ldisc 3", "ppp_async"),
    "the PPP node by root": ("root", "python3 -c 'open(\"/dev/ppp\")'", "ppp_generic"),
    # iwd, bluetoothd
    "AF_ALG by iwd's CAP_NET_ADMIN": ("net-admin", "python3 -c 'import socket; socket.socket(38, 5, 0)'", "af_alg"),
    "a hash by iwd's CAP_NET_ADMIN": (
        "net-admin",
        "python3 -c 'import socket; socket.socket(38, 5, 0).bind((\"hash\", \"sha256\"))'",
        "af_alg algif_hash",
    ),
    "Bluetooth by an ambient CAP_NET_ADMIN": ("net-admin", "python3 -c 'import socket; socket.socket(31, 5, 0)'", "bluetooth"),
    "RFCOMM by an ambient CAP_NET_ADMIN": ("net-admin", "python3 -c 'import socket; socket.socket(31, 1, 3)'", "bluetooth rfcomm"),
    # kTLS and congestion control
    "bbr by root": ("root", "sysctl -w net.ipv4.tcp_congestion_control=bbr; sysctl -w net.ipv4.tcp_congestion_control=cubic", "tcp_bbr"),
    "kTLS by root": ("root", "python3 /agent/program_setup.py ktls", "tls"),
    # ss and the like
    "ss by a user": ("user", "ss -tuxwan", "tcp_diag udp_diag raw_diag unix_diag inet_diag"),
    "ss of netlink and packet sockets by a user": ("user", "ss -a -A netlink,packet", "netlink_diag af_packet_diag"),
    # desktop sound, by group audio
    "the sequencer by the seat's user": ("audio", "python3 -c 'open(\"/dev/snd/seq\")'", "snd_seq"),
    "the timer by the seat's user": ("audio", "python3 -c 'open(\"/dev/snd/timer\")'", "snd_timer"),
    # guests of qemu as a user
    "vhost-net by a user": ("user", "python3 -c 'open(\"/dev/vhost-net\")'", "vhost_net"),
    "vhost-vsock by a user": ("user", "python3 -c 'open(\"/dev/vhost-vsock\")'", "vhost_vsock vsock"),
    "vfio by a user": ("user", "python3 -c 'open(\"/dev/vfio/vfio\")'", "vfio"),
    # AppImage, sshfs
    "FUSE by a user": (
        "user",
        "mkdir -p /tmp/f && squashfuse /run/images/squashfs /tmp/f && ls /tmp/f && fusermount3 -u /tmp/f",
        "fuse",
    ),
    # network file systems
    "NFS client mount by root": ("root", "python3 /agent/program_setup.py nfs", "nfs nfsv4"),
    "CIFS mount by root": ("root", "mount -t cifs -o username=u,password=p //127.0.0.1/x /mnt", "cifs"),
    "9p mount by root": ("root", "mount -t 9p -o trans=virtio x /mnt", "9p 9pnet_virtio"),
    "autofs by root": ("root", "mount -t autofs -o fd=0,pgrp=1,minproto=5,maxproto=5 x /mnt < /dev/null", "autofs4"),
    # guest agents
    "vsock by root": ("root", "python3 -c 'import socket; socket.socket(40, 1, 0)'", "vsock"),
}  # fmt: skip

_WITHOUT_A_PEER = ("cifs", "9p", "autofs", "l2tp", "vhost", "exfat", "iso9660", "genl")
"""Words of commands that fail here for lack of a server, hardware or an image. Their rows check only the modules."""


def setup(guest: Guest) -> None:
    """Switch safe-modprobe on and prepare images and nodes, before each row."""
    prepare(guest)


def row(guest: Guest, caller: str, command: str, modules: str) -> None:
    """The command succeeds and loads the modules that it needs."""
    wanted = set(modules.split())
    done, new = run_after_unloading(guest, caller, command, wanted)
    missing = wanted - new
    details = f"{command!r} ended with {done.returncode}: {done.stderr[-600:]}; the log says {guest.log()[-4:]}"
    assert not missing, f"{missing} not loaded; {details}"
    if not any(word in command for word in _WITHOUT_A_PEER):
        assert done.returncode == 0, details


def test_an_unknown_netlink_family_is_refused_to_a_user_without_a_word(guest: Guest) -> None:
    before = len(guest.log())
    done, new = run_after_unloading(guest, "user", "iw dev", {"cfg80211"})
    assert "cfg80211" not in new and done.returncode != 0
    assert guest.log()[before:] == []


def test_a_family_that_nothing_answers_is_not_worth_a_word(guest: Guest) -> None:
    before = len(guest.log())
    done, _ = run_after_unloading(guest, "user", "python3 -c 'import socket; socket.socket(12, 1, 0)'", set())
    assert "not supported" in done.stderr, done
    assert guest.log()[before:] == []


def test_an_odd_binary_is_refused_without_a_word(guest: Guest) -> None:
    before = len(guest.log())
    with open("/run/odd", "wb") as file:
        file.write(b"\x80\x81\x82\x83" * 4)
    os.chmod("/run/odd", 0o755)
    done, _ = run_after_unloading(guest, "user", 'python3 -c \'import os; os.execv("/run/odd", ["odd"])\'', set())
    assert "Exec format error" in done.stderr, done
    assert guest.log()[before:] == []

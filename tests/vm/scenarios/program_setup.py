"""Prepare users, images and device nodes for the scenarios of real programs.

Run as a script, it makes requests for which no usual program is at hand.
"""

import fcntl
import os
import pty
import socket
import stat
import struct
import subprocess
import sys

_SETPRIV = "setpriv --clear-groups --reuid 1000 --regid 1000"
_NET_ADMIN = f"{_SETPRIV} --bounding-set=-all,+net_admin --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin"
_HOMED = "-all,+sys_admin,+chown,+dac_override,+fowner,+fsetid,+setgid,+setuid,+sys_resource"
CALLERS = {
    "root": "",
    "user": f"{_SETPRIV} --inh-caps=-all",
    "userns": f"{_SETPRIV} --inh-caps=-all unshare --user --map-root-user --net --mount",
    "audio": "setpriv --reuid 1000 --regid 1000 --groups 29 --inh-caps=-all",
    "net-admin": _NET_ADMIN,
    "sys-admin": f"setpriv --bounding-set={_HOMED} --inh-caps={_HOMED}",
    "net-admin-container": f"unshare --net --mount --pid --fork {_NET_ADMIN}",
}
"""The command prefix of each caller. `userns` is root of a new user namespace, as any user can become. `sys-admin` has
the capabilities of systemd-homed's unit."""

AUDIO = 29
NODE_MODES = {
    "fuse": (0o666, 0), "net/tun": (0o666, 0), "vfio/vfio": (0o666, 0), "vhost-net": (0o666, 0), "vhost-vsock": (0o666, 0),
    "snd/seq": (0o660, AUDIO), "snd/timer": (0o660, AUDIO),
}  # fmt: skip
"""Modes and groups of static nodes, as in udev's 50-udev-default.rules. Other nodes are for root only."""

MAKE_IMAGES = """set -e
ln -sf /proc/self/mounts /etc/mtab && echo user:x:1000:1000::/tmp:/bin/sh >> /etc/passwd
mkdir -p /run/images/tree && echo hello > /run/images/tree/hello && cd /run/images
truncate -s 16M ext4 vfat && truncate -s 320M xfs && truncate -s 24M luks
mkfs.ext4 -q ext4 && mkfs.vfat vfat && mkfs.xfs -q xfs && mksquashfs tree squashfs -quiet -no-progress
chmod -R a+rX /run/images"""


def prepare(guest):
    """Switch safe-modprobe on. Once a boot, make the images of file systems and the device nodes."""
    if not os.path.exists("/run/images/squashfs"):
        done = guest.sh(MAKE_IMAGES)
        assert done.returncode == 0, done.stderr
        static_nodes()
        # Making a LUKS image loads the ciphers that opening it needs. run_after_unloading() unloads them.
        done = guest.sh(
            "echo secret | cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000"
            " -c aes-xts-plain64 -s 256 /run/images/luks"
        )
        assert done.returncode == 0, done.stderr
    guest.switch_on()


def static_nodes():
    """Create the device nodes in modules.devname, as a system does at boot. open(2) of such a node loads its module."""
    with open(f"/lib/modules/{os.uname().release}/modules.devname") as file:
        lines = [line.split() for line in file if not line.startswith("#")]
    for _, name, device in lines:
        mode, group = NODE_MODES.get(name, (0o600, 0))
        major, minor = device[1:].split(":")
        path = f"/dev/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.exists(path):
            os.mknod(
                path, (stat.S_IFCHR if device[0] == "c" else stat.S_IFBLK) | mode, os.makedev(int(major), int(minor))
            )
        os.chmod(path, mode)
        os.chown(path, 0, group)


def unload_with_users(guest, name):
    """Unload a module, and first all modules that use it. Do nothing if it is not loaded."""
    with open("/proc/modules") as file:
        users = {line.split()[0]: line.split()[3] for line in file}
    if name in users:
        for user in users[name].split(","):
            if user not in ("-", ""):
                unload_with_users(guest, user)
        guest.sh(f"rmmod {name}")


def run_after_unloading(guest, caller, command, modules):
    """Unload these modules, then run the command as this caller. Return (completed process, loaded modules)."""
    if "nf_tables" in guest.modules():
        guest.sh("nft flush ruleset")
    for name in sorted(modules):
        unload_with_users(guest, name)
    left = modules & guest.modules()
    assert not left, f"{left} cannot be unloaded, so this test would prove nothing"
    done = guest.sh(f'exec {CALLERS[caller]} sh -c "$COMMAND"', env={**os.environ, "COMMAND": command}, timeout=100)
    return done, guest.modules()


def ldisc(number):
    """Set the line discipline of a new terminal (TIOCSETD), which requests tty-ldisc-NUMBER."""
    _, terminal = pty.openpty()
    fcntl.ioctl(terminal, 0x5423, struct.pack("i", number))


def ktls():
    """Set TCP_ULP on a socket, which requests tcp-ulp-tls."""
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    client.setsockopt(socket.IPPROTO_TCP, 31, b"tls")


def genl(family):
    """Send CTRL_GETFAMILY, which requests net-pf-16-proto-16-family-FAMILY. Exit with 1 if the kernel lacks it."""
    name = family.encode() + b"\0"
    attribute = struct.pack("HH", 4 + len(name), 2) + name + b"\0" * (-len(name) % 4)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as generic:
        generic.send(struct.pack("IHHIIBBH", 20 + len(attribute), 16, 5, 1, 0, 3, 1, 0) + attribute)
        kind = struct.unpack_from("H", generic.recv(4096), 4)[0]
    sys.exit(kind == 2)  # NLMSG_ERROR


def rds_tcp():
    """Set SO_RDS_TRANSPORT on a socket, which requests rds_tcp by name."""
    socket.socket(21, socket.SOCK_SEQPACKET, 0).setsockopt(276, 8, struct.pack("i", 2))


def nfs():
    """Run an NFS 4 server on loopback and mount it. Exit with its errors if that fails."""
    script = """set -e
mkdir -p /run/export /mnt /var/lib/nfs/v4recovery /run/rpcbind && echo hello > /run/export/hello
mount -t tmpfs tmpfs /run/export && echo hello > /run/export/hello
mount -t nfsd nfsd /proc/fs/nfsd
exportfs -o rw,fsid=0,insecure,no_root_squash 127.0.0.1:/run/export
rpc.mountd -N 3 && rpc.nfsd -N 3 -V 4 1
mount -t nfs4 -o soft,timeo=50,retrans=1 127.0.0.1:/ /mnt && cat /mnt/hello && umount /mnt
"""
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=90)
    subprocess.run(["sh", "-c", "rpc.nfsd 0; pkill rpc.mountd; umount /proc/fs/nfsd /run/export"], capture_output=True)
    sys.exit(done.stderr if done.returncode else 0)


if __name__ == "__main__":
    {
        "ldisc": lambda: ldisc(int(sys.argv[2])), "ktls": ktls, "genl": lambda: genl(sys.argv[2]), "rds_tcp": rds_tcp,
        "nfs": nfs,
    }[sys.argv[1]]()  # fmt: skip

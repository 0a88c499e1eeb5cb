"""Which callers can make the kernel request a module: the families of request_module(), as data.

The data comes from the sources of Linux 7.2.13, 6.12 and 6.1; line numbers are those of 7.2.13. A family's reach is its
weakest caller that gets as far as the request, even if the kernel refuses the operation afterwards.
"""

from collections.abc import Iterable
from enum import StrEnum
from itertools import count

from safe_modprobe.admin.policy.globs import is_literal, literal_prefix
from safe_modprobe.capability import Capability, holds, parse_capability
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.model import Caller, Policy
from safe_modprobe.policy.match import alias_glob


class Reach(StrEnum):
    """The least privileged caller that can make the kernel request a module. The weakest comes first."""

    USER = "user"
    """A process without capabilities, in the initial namespaces."""
    USERNS = "userns"
    """Root of its own user namespace, with CAP_NET_ADMIN or CAP_SYS_ADMIN there (ns_capable())."""
    NETWORK_ADMIN = "network-admin"
    """CAP_NET_ADMIN in the initial user namespace (capable())."""
    CAPABILITY = "capability"
    """Another capability in the initial user namespace, or the owner of a device node, sysfs or configfs file."""
    KERNEL = "kernel"
    """A driver's probe or another kernel thread."""
    NONE = "none"
    """No request_module() at all: udev's modaliases, or an administrator's command."""


MAX_REQUEST = 55
"""Bytes, MODULE_NAME_LEN - 1: kernel/module/kmod.c requests no longer name."""

ORDER: tuple[Reach, ...] = tuple(Reach.__members__.values())

TITLES = {
    Reach.USER: "any user",
    Reach.USERNS: "root of a user namespace",
    Reach.NETWORK_ADMIN: "a network admin",
    Reach.CAPABILITY: "another capability, or root's device node or file",
    Reach.KERNEL: "a driver or a kernel thread",
    Reach.NONE: "no request: udev, a dependency, or by hand",
}
"""The reach as people read it."""


class Family(NamedTuple):
    """The requests that one place in the kernel makes.

    `patterns` are for match.alias_glob(). They match aliases and module names, since many requests name a module.
    `site` is the place in the kernel's sources. `capability` is the one that the kernel checks before the request,
    None if it checks none. `condition` says what else must hold.
    """

    patterns: tuple[str, ...]
    reach: Reach
    site: str
    capability: Capability | None = None
    condition: str = ""

    @property
    def name(self) -> str:
        """The family's name: its first pattern."""
        return self.patterns[0]


class Reached(NamedTuple):
    """A request that loads a module, and the family of the request."""

    request: str
    family: Family


_NET_ADMIN = parse_capability("CAP_NET_ADMIN")
_SYS_ADMIN = parse_capability("CAP_SYS_ADMIN")


def _user(patterns: str, site: str, condition: str = "") -> Family:
    return Family(tuple(patterns.split()), Reach.USER, site, None, condition)


def _userns(patterns: str, site: str, condition: str = "") -> Family:
    return Family(tuple(patterns.split()), Reach.USERNS, site, _NET_ADMIN, condition)


def _mounter(patterns: str, site: str, condition: str = "") -> Family:
    return Family(tuple(patterns.split()), Reach.USERNS, site, _SYS_ADMIN, condition)


def _network_admin(patterns: str, site: str) -> Family:
    return Family(tuple(patterns.split()), Reach.NETWORK_ADMIN, site, _NET_ADMIN)


def _root(patterns: str, site: str, condition: str = "") -> Family:
    return Family(tuple(patterns.split()), Reach.CAPABILITY, site, None if condition else _SYS_ADMIN, condition)


def _kernel(patterns: str, site: str) -> Family:
    return Family(tuple(patterns.split()), Reach.KERNEL, site)


_NODE = "the node's mode, root's by default"
_OPEN_NODE = "the node's mode, open to all by default"
_SEAT = "the seat's user, or group audio"

FAMILIES = (
    # Sockets. Narrow patterns stand above net-pf-*, since the first match wins.
    Family(("net-pf-35-proto-*",), Reach.CAPABILITY, "net/phonet/af_phonet.c:77", _SYS_ADMIN, "capable() at :58"),
    _user("net-pf-16-proto-16-family-*", "net/netlink/genetlink.c:1449", "CTRL_GETFAMILY"),
    _user("net-pf-16-proto-4-type-*", "net/core/sock.c:4343", "sock_diag, inet_diag"),
    _user("net-pf-16-proto-*", "net/netlink/af_netlink.c:668"),
    _user("net-pf-24-proto-*", "drivers/net/ppp/pppox.c:138"),
    _user("net-pf-2-proto-* net-pf-10-proto-*", "net/ipv4/af_inet.c:306, net/ipv6/af_inet6.c:151"),
    _user("net-pf-*", "net/socket.c:1632"),
    _user("can-proto-*", "net/can/af_can.c:132"),
    _user("bt-proto-*", "net/bluetooth/af_bluetooth.c:125"),
    _user("algif-*", "crypto/af_alg.c:177"),
    _user("crypto-* cryptomgr", "crypto/api.c:303", "bind(2) on AF_ALG, KEYCTL_DH_COMPUTE"),
    # By name.
    _user("bridge 8021q", "net/socket.c:1269, :1381", "an ioctl on any socket"),
    _user("rds_tcp rds_rdma", "net/rds/transport.c:125", "once rds is loaded"),
    _user("net-cls-* cls_*", "net/sched/cls_api.c:260", "RTM_GETTFILTER; cls_* until 6.8"),
    _user("tty-ldisc-*", "drivers/tty/tty_ldisc.c:155", "while dev.tty.ldisc_autoload is 1"),
    _user("rdma-netlink-subsys-*", "drivers/infiniband/core/netlink.c:101"),
    _user("rdma-client-*", "drivers/infiniband/core/device.c:1994"),
    _user("atm-device-* pppoatm br2684", "net/atm/common.c:484, net/atm/ioctl.c:95"),
    _user("lec clip mpoa", "net/atm/ioctl.c", "an ioctl on an ATM socket, in 6.1 and 6.12"),
    _user("bpfilter", "net/ipv4/bpfilter/sockopt.c", "a socket option, in 6.1"),
    _user("binfmt-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]", "fs/exec.c", "until 6.13"),
    # Device nodes that can exist before their module is loaded (modules.devname), with the modes of udev and systemd.
    _user(
        "char-major-10-200 char-major-10-229 char-major-10-196 char-major-10-232 char-major-10-238 char-major-10-241",
        "fs/char_dev.c:665, drivers/char/misc.c:138",
        _OPEN_NODE,
    ),
    _user("char-major-116-*", "fs/char_dev.c:665", _SEAT),
    _user("snd-card-* snd-seq snd-timer snd-timer-* snd-seq-client-*", "sound/core/sound.c:66, timer.c:218", _SEAT),
    # Root of a user namespace: CAP_SYS_ADMIN there.
    _mounter("fs-*", "fs/filesystems.c:400", "and any user whom AppArmor confines (security/apparmor/mount.c:552)"),
    _mounter("nls_*", "fs/nls/nls_base.c:304", "mount options; jfs reads them before mount_capable()"),
    _mounter("9p-*", "net/9p/mod.c:116", "mount options"),
    # Root of a user namespace: CAP_NET_ADMIN there.
    _userns("rtnl-link-* rtnl-af-*", "net/core/rtnetlink.c:4096"),
    _userns("rtnl-lwt-*", "net/core/lwtunnel.c:169"),
    _userns("net-sch-* sch_*", "net/sched/sch_api.c:1817", "sch_* until 6.8"),
    _userns("net-act-* act_*", "net/sched/act_api.c:1384", "inside a filter; act_* until 6.8"),
    _userns("ematch-kind-*", "net/sched/ematch.c:218"),
    _userns("ife-meta-*", "net/sched/act_ife.c:276"),
    _userns("ts_*", "lib/textsearch.c:281"),
    _userns("nfnetlink-subsys-*", "net/netfilter/nfnetlink.c:397"),
    _userns("nft-chain-* nft-expr-* nft-obj-* nft-set nf-flowtable-*", "net/netfilter/nf_tables_api.c:11211"),
    _userns("nf-logger-* nf_log_* nfnetlink_log", "net/netfilter/nft_log.c, net/netfilter/nf_log.c"),
    _userns("xt_* ipt_* ip6t_* arpt_* ebt_*", "net/netfilter/x_tables.c:240"),
    _userns(
        "iptable_* ip6table_* arptable_* ebtable_*",
        "net/netfilter/x_tables.c:1382, net/bridge/netfilter/ebtables.c:371",
    ),
    _userns("nfct-helper-* nf-nat* ip_nat_*", "net/netfilter/nf_conntrack_helper.c:85"),
    _userns(
        "ip_conntrack_netlink nf_conntrack-[0-9]* nf_conntrack_bridge br_netfilter",
        "net/netfilter/nf_conntrack_proto.c:495, net/netfilter/xt_physdev.c:137",
    ),
    _userns("ip_set_*", "net/netfilter/ipset/ip_set_core.c:113"),
    _userns("ip_vs_*", "net/netfilter/ipvs/ip_vs_sched.c:125"),
    _userns("xfrm-type-* xfrm-offload-* xfrm-iptfs", "net/xfrm/xfrm_state.c:369"),
    _userns("vport-type-*", "net/openvswitch/vport.c:233"),
    _userns("net-l2tp-type-*", "net/l2tp/l2tp_netlink.c:630"),
    # CAP_NET_ADMIN in the initial user namespace. dev_load() also requests the bare interface name, but only for
    # CAP_SYS_MODULE, which suffices for any module. So that is no family.
    _network_admin("netdev-*", "net/core/dev_ioctl.c:668"),
    _network_admin("tcp-ulp-*", "net/ipv4/tcp_ulp.c:44"),
    _network_admin("tcp_*", "net/ipv4/tcp_cong.c:57"),
    _network_admin("team-mode-*", "drivers/net/team/team_core.c:480"),
    _network_admin("rdma-link-*", "drivers/infiniband/core/nldev.c:1811"),
    _network_admin(
        "lib80211_crypt_* libipw_crypt_* rtllib_crypt_* ieee80211_crypt_*",
        "net/wireless/wext-core.c:990, drivers/net/wireless",
    ),
    # Another capability, or a node or file that belongs to root.
    _root("ppp-compress-*", "drivers/net/ppp/ppp_generic.c:3063", _NODE),
    _root("char-major-*", "fs/char_dev.c:665", _NODE),
    _root("block-major-*", "block/genhd.c:904", _NODE),
    _root("sound-slot-* sound-service-*", "sound/sound_core.c:562", _NODE),
    _root("fb[0-9]*", "drivers/video/fbdev/core", _NODE),
    _root("dm-*", "drivers/md/dm-ioctl.c:2206"),
    _root("md-*", "drivers/md/md.c:4106"),
    _root("*-iosched", "block/elevator.c:783"),
    _root("quota_v*", "fs/quota/dquot.c:208"),
    _root("nfsv* nfs-layouttype*", "fs/nfs/client.c:97, fs/nfs/pnfs.c:184"),
    _root("rpc-auth-* rpc* svc* xprt*", "net/sunrpc"),
    _root("nf_defrag_ipv4 nf_defrag_ipv6", "net/netfilter/nf_bpf_link.c:46"),
    _root("bpf_preload", "kernel/bpf/inode.c:1130"),
    _root("nvme-* nvmet-transport-*", "drivers/nvme"),
    _root("iscsi_target_mod ib_isert cxgbit target_core_* tcm_*", "drivers/target"),
    _root("usbfunc:*", "drivers/usb/gadget"),
    _root("ocfs2_stack_*", "fs/ocfs2/stackglue.c"),
    _root("cpufreq_* governor_*", "drivers/cpufreq, drivers/devfreq"),
    _root("scsi_dh_*", "drivers/scsi/scsi_dh.c"),
    # Kernel threads and drivers.
    _kernel("snd-seq-* snd-*-synth", "sound/core/seq_device.c:116"),
    _kernel(
        "i2c:* ulpi:* mdio:* ledtrig:* hdaudio:*", "drivers/i2c, drivers/usb/common, drivers/net/phy, drivers/leds"
    ),
    _kernel("w1-family-*", "drivers/w1/w1.c"),
    _kernel("rc-*", "drivers/media/rc"),
    _kernel("brcmfmac-*", "drivers/net/wireless/broadcom"),
    _kernel("iwldvm iwlmvm iwlmld", "drivers/net/wireless/intel/iwlwifi"),
    _kernel("nhc_*", "net/6lowpan"),
    _kernel("of:*", "drivers/of/module.c"),
    _kernel("ipmi_* pcmcia stm_p_basic acpi_ipmi ntb_hw_switchtec", "drivers/**, some by request_module_nowait()"),
)


def family_of(request: str) -> Family | None:
    """Return the first family that makes this request, or None."""
    normal = request.replace("-", "_")
    for prefixes, family in _PREFIXES:
        if normal.startswith(prefixes) and any(alias_glob(each, request) for each in family.patterns):
            return family
    return None


def representative(pattern: str) -> str:
    """Return one request that this pattern matches: 0 for each * and ?, and the first member of each bracket.

    A wildcard mostly stands for a number (char-major-9-*, md-level-?), and otherwise for any name.
    """
    parts = pattern.split("[")
    shown = [parts[0]]
    for part in parts[1:]:
        inside, bracket, outside = part.partition("]")
        first = inside[:1] if inside[:1] not in ("!", "") else "0"
        shown.append(first + outside if bracket else f"[{part}")
    return "".join(shown).replace("*", "0").replace("?", "0")


def requests_for(name: str, aliases: Iterable[str]) -> tuple[Reached, ...]:
    """Return the requests that load a module directly, those of the weakest callers first.

    The module's name is a request too, since libkmod resolves names like aliases. An alias with wildcards is requested
    by its representative(), and by that of every family that it matches: `net-*` matches net-pf-0. Requests longer than
    MAX_REQUEST are left out.
    """
    found: dict[str, Family] = {}
    for alias in dict.fromkeys((*aliases, name)):
        for request in _requests_of(alias):
            family = family_of(request)
            if family is not None and len(request.encode(errors="surrogateescape")) <= MAX_REQUEST:
                found.setdefault(request, family)
    ordered = sorted(found.items(), key=lambda each: ORDER.index(each[1].reach))
    return tuple(Reached(request, family) for request, family in ordered)


def _requests_of(alias: str) -> tuple[str, ...]:
    if is_literal(alias):
        return (alias,)
    prefix = _prefix(alias)
    examples = [each for normal, each in _EXAMPLES if normal.startswith(prefix)]
    return (representative(alias), *(each for each in examples if alias_glob(alias, each)))


def weakest(reached: Iterable[Reached]) -> Reach:
    """Return the weakest caller of all requests; NONE if there are none."""
    return min((each.family.reach for each in reached), key=ORDER.index, default=Reach.NONE)


def weaker(one: Reach, other: Reach) -> Reach:
    """Return the reach that needs less privilege."""
    return min(one, other, key=ORDER.index)


def unprivileged_uid(policy: Policy) -> int:
    """Return the first uid from 60000 on that no rule names. It stands for every ordinary user."""
    known = {uid for rule in policy.rules for uid in rule.users or ()}
    return next(uid for uid in count(60_000) if uid not in known)


def may_ask(caller: Caller, family: Family) -> bool:
    """Whether this caller passes the kernel's checks before the request."""
    if family.reach is Reach.USER:
        return True
    if family.capability is None or not holds(caller.capabilities, family.capability):
        return False
    needs_initial = family.reach in (Reach.NETWORK_ADMIN, Reach.CAPABILITY)
    return family.reach is Reach.USERNS or (needs_initial and bool(caller.initial_user_namespace))


def _prefix(pattern: str) -> str:
    """Return the normalised literal prefix. It makes lookups fast: a module tree has tens of thousands of aliases."""
    return literal_prefix(pattern).replace("-", "_")


_PREFIXES = tuple((tuple(map(_prefix, family.patterns)), family) for family in FAMILIES)
_EXAMPLES = tuple(
    (example.replace("-", "_"), example) for family in FAMILIES for example in map(representative, family.patterns)
)

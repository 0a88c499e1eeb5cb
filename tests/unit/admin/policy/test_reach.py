"""Which callers can make the kernel request a module: a row for each family, and for requests of no family."""

import pytest

from safe_modprobe.admin.policy.reach import (
    FAMILIES,
    ORDER,
    TITLES,
    Reach,
    family_of,
    may_ask,
    representative,
    requests_for,
    weakest,
)
from safe_modprobe.capability import ALL
from safe_modprobe.model import Caller
from tests.unit.make import caller

U, N, A, R, K = Reach.USER, Reach.USERNS, Reach.NETWORK_ADMIN, Reach.CAPABILITY, Reach.KERNEL

ROWS = [
    *[(alias, U) for alias in """
        net-pf-38 net-pf-21 net-pf-2-proto-132 net-pf-10-proto-132 net-pf-2-proto-132-type-1 net-pf-16-proto-6
        net-pf-16-proto-16-family-ovs_datapath net-pf-16-proto-4-type-10 net-pf-16-proto-4-type-2-6 net-pf-24-proto-2
        net-pf-35 can-proto-1 bt-proto-3 algif-aead algif_hash crypto-xts(aes) crypto-sha256-all cryptomgr bridge 8021q
        net-cls-u32 cls_u32 tty-ldisc-21 rds_tcp rds_rdma rdma-netlink-subsys-6 rdma-client-umad atm-device-3 pppoatm
        br2684 lec clip mpoa bpfilter char-major-10-200 char-major-10-229 char-major-10-232 char-major-10-238 char-major-116-1 snd-card-0 snd-seq
        snd-timer snd-timer-3 snd-seq-client-14 binfmt-464c
    """.split()],
    *[(alias, N) for alias in """
        fs-xfs fs-overlay nls_utf8 9p-virtio rtnl-link-wireguard rtnl-af-4 rtnl-lwt-MPLS net-sch-qfq sch_qfq net-act-pedit
        act_pedit ematch-kind-1 ife-meta-skbmark ts_kmp nfnetlink-subsys-10 nft-chain-2-nat nft-expr-2-fib nft-expr-ct
        nft-obj-1 nf-flowtable-1 nf-logger-2-0 nf_log_syslog nfnetlink_log xt_TEE xt-TEE ipt_REJECT ip6t_rpfilter
        arpt_mangle ebt_ip iptable_nat ip6table_raw arptable_filter ebtable_nat nfct-helper-ftp nf-nat ip_nat_ftp
        ip_conntrack_netlink nf_conntrack-2 nf_conntrack_bridge br_netfilter ip_set_hash:ip ip_vs_rr ip_vs_pe_sip
        xfrm-type-2-50 xfrm-offload-10-50 xfrm-iptfs vport-type-4 net-l2tp-type-5
    """.split()],
    *[(alias, A) for alias in """
        netdev-tunl0 tcp_bbr tcp-ulp-tls team-mode-random rdma-link-rxe lib80211_crypt_wep libipw_crypt_tkip
        rtllib_crypt_wep ieee80211_crypt_ccmp
    """.split()],
    *[(alias, R) for alias in """
        net-pf-35-proto-2 ppp-compress-21 char-major-108-0 char-major-14-3 char-major-10-61 block-major-7 block-major-7-0
        sound-slot-0 sound-service-0-3 fb0 dm-crypt dm-log-userspace md-level-5 md-raid1 bfq-iosched quota_v2 nfsv4
        nfs-layouttype4-1 rpc-auth-6 rpcrdma svcrdma nf_defrag_ipv4 bpf_preload nvme-tcp nvmet-transport-3
        iscsi_target_mod ib_isert cxgbit target_core_user usbfunc:ncm ocfs2_stack_o2cb cpufreq_ondemand governor_simpleondemand
        scsi_dh_alua
    """.split()],
    *[(alias, K) for alias in """
        i2c:adt7475 ulpi:v0451p1508 w1-family-0x28 ledtrig:disk-activity hdaudio:v8086r00000000a01 rc-rc6-mce brcmfmac-wcc
        of:NfooT(null)Cbar snd-seq-midi iwlmvm nhc_udp stm_p_basic acpi_ipmi ipmi_devintf pcmcia ntb_hw_switchtec
    """.split()],
    # Names that the kernel never requests: udev's modaliases, and names that only begin like a family.
    *[(alias, None) for alias in """
        usb:v1d6bp0002 pci:v00008086d00001533 acpi*:PNP0C0A:* virtio:d00000001v dmi:bvn net- netpf-38 xnet-pf-38 net-pf can
        crypto af_alg xfs ext4 bridge2 8021 sch tcp nls snd rds binfmt-46 binfmt-xyzw fbdev tty-ldisc ''
    """.replace("''", "").split()],
    ("", None), ("*", None), ("\n", None), ("net-pf-38\n", U), ("\udcff", None),
]  # fmt: skip


@pytest.mark.parametrize(("alias", "reach"), ROWS, ids=map(ascii, (alias for alias, _ in ROWS)))
def test_reach_of_a_request(alias: str, reach: Reach | None) -> None:
    found = family_of(alias)
    assert (found and found.reach) == reach


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_family_hides_behind_another(family: object) -> None:
    """The first match wins, so a pattern below a wider one would never match."""
    for pattern in family.patterns:  # type: ignore[attr-defined]
        assert family_of(representative(pattern)) == family
        assert any(pattern in pattern_of.patterns and pattern_of == family for pattern_of in FAMILIES)


def test_every_family_has_its_row() -> None:
    assert {family.name for family in FAMILIES} - {
        found.name for alias, _ in ROWS if (found := family_of(alias))
    } == set()


def test_every_class_has_a_title() -> None:
    assert set(TITLES) == set(Reach) == set(ORDER)


@pytest.mark.parametrize(
    ("pattern", "request_"),
    [
        ("plain", "plain"), ("char-major-9-*", "char-major-9-0"), ("md-level-?", "md-level-0"), ("a[bc]d", "abd"),
        ("a[!b]c", "a0c"), ("a[b", "a[b"), ("a]b", "a]b"), ("[]", "0"), ("*?*", "000"), ("", ""),
    ],
)  # fmt: skip
def test_representative(pattern: str, request_: str) -> None:
    assert representative(pattern) == request_


REQUESTS = [
    ("af_alg", ["net-pf-38"], ["net-pf-38"]),
    ("sch_x", ["net-sch-x", "pci:1"], ["net-sch-x", "sch_x"]),
    ("xt_x", ["ipt_x", "net-pf-99"], ["net-pf-99", "ipt_x", "xt_x"]),
    ("tun", ["char-major-10-200", "devname:net/tun"], ["char-major-10-200"]),
    ("plain", ["pci:*", "usb:v*"], []),
    ("tcp_bbr", [], ["tcp_bbr"]),
    ("m", ["net-pf-99", "net-pf-99"], ["net-pf-99"]),
    ("m", ["char-major-9-*"], ["char-major-9-0"]),
    ("m", ["net-pf-" + "9" * 48], ["net-pf-" + "9" * 48]),
    ("m", ["net-pf-" + "9" * 49], []),  # a request has at most 55 bytes
    ("m", ["net-pf-" + "é" * 25], []),
    ("m", ["tcp_*"], ["tcp_0", "tcp-ulp-0"]),
]


@pytest.mark.parametrize(("name", "aliases", "expected"), REQUESTS)
def test_requests_that_load_a_module(name: str, aliases: list[str], expected: list[str]) -> None:
    assert [each.request for each in requests_for(name, aliases)] == expected


def test_a_wide_alias_gives_a_request_of_every_family_it_matches() -> None:
    found = requests_for("m", ["net-*"])
    assert {"net-pf-0", "net-sch-0", "net-act-0"} <= {each.request for each in found}
    assert weakest(found) is Reach.USER
    assert weakest(()) is Reach.NONE


USER, NET, SYS = caller(), caller(1000, "CAP_NET_ADMIN"), caller(1000, "CAP_SYS_ADMIN")
USERNS_ROOT = caller()._replace(capabilities=ALL, initial_user_namespace=False)
NET_ADMIN_OF_USERNS = NET._replace(initial_user_namespace=False)

CALLERS = [
    (USER, "net-pf-38", True), (USERNS_ROOT, "net-pf-38", True), (NET, "net-pf-38", True),
    (USER, "fs-xfs", False), (USERNS_ROOT, "fs-xfs", True), (NET, "fs-xfs", False), (SYS, "fs-xfs", True),
    (NET_ADMIN_OF_USERNS, "fs-xfs", False), (NET_ADMIN_OF_USERNS, "net-sch-qfq", True), (SYS, "net-sch-qfq", False),
    (USER, "net-sch-qfq", False), (NET, "net-sch-qfq", True),
    (USER, "netdev-x", False), (USERNS_ROOT, "netdev-x", False), (NET, "netdev-x", True), (SYS, "netdev-x", False),
    (USER, "dm-crypt", False), (USERNS_ROOT, "dm-crypt", False), (NET, "dm-crypt", False), (SYS, "dm-crypt", True),
    (USERNS_ROOT, "net-pf-35-proto-2", False), (SYS, "net-pf-35-proto-2", True),
    (USERNS_ROOT, "block-major-7", False), (SYS, "block-major-7", False), (SYS, "i2c:x", False), (USERNS_ROOT, "i2c:x", False),
]  # fmt: skip


@pytest.mark.parametrize(("who", "alias", "may"), CALLERS)
def test_which_callers_reach_the_request(who: Caller, alias: str, may: bool) -> None:
    family = family_of(alias)
    assert family is not None
    assert may_ask(who, family) is may

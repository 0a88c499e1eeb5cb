"""The policy that applies if there are no policy files, or invalid ones: every module needs privilege."""

from safe_modprobe.capability import parse_capability
from safe_modprobe.model import BUILT_IN, CallSite, Mode, Policy, Settings


def _sites(capability: str, *aliases: str) -> CallSite:
    return CallSite(BUILT_IN, aliases, parse_capability(capability))


BUILTIN_POLICY = Policy(
    settings=Settings(mode=Mode.PRIVILEGED),
    call_sites=(
        CallSite(BUILT_IN, ("crypto-*",), deputy=True),
        _sites("CAP_SYS_ADMIN", "fs-*", "dm-*", "md-*"),
        _sites(
            "CAP_NET_ADMIN",
            "netdev-*",
            "rtnl-*",
            "net-*",
            "nfnetlink-subsys-*",
            "nft-*",
            "nf-*",
            "xt_*",
            "ipt_*",
            "ip6t_*",
            "xfrm-*",
            "tcp_*",
            "tcp-ulp-*",
        ),
    ),
)

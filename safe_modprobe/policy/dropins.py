"""Which drop-in files count, and in what order: systemd's rule over several folders."""

from _collections_abc import Sequence

FOLDERS = (
    "/usr/lib/safe-modprobe/policy.d",
    "/run/safe-modprobe/policy.d",
    "/etc/safe-modprobe/policy.d",
)
"""Ours, this boot's, the admin's: a name in a later one replaces the same name in an earlier one."""

SUFFIX = ".toml"

MAX_BYTES = 1 << 20
"""Of one drop-in."""

TRIAL_FILE = "00-trial.toml"
"""In /run: what `safe-modprobectl enable --trial` writes. While it is there, nobody is refused anything."""

SITE_FILE = "10-site.toml"
"""In /etc: the admin's own rows, by hand or by `safe-modprobectl mark`, `unmark` and `allow`."""

UNTIL_REBOOT_FILE = "09-until-reboot.toml"
"""In /run: what those write with --until-reboot. Just before the admin's own, so that it counts while it lasts."""


def effective_files(folders: Sequence[Sequence[str]]) -> list[tuple[str, int]]:
    """(name, index of its folder) in the order of precedence.

    `folders` are the names in each, the admin's folder last: a name there replaces the same name before it.
    Hidden files and those without the suffix are no drop-ins.
    """
    winner: dict[str, int] = {}
    for index, names in enumerate(folders):
        for name in names:
            if name.endswith(SUFFIX) and not name.startswith("."):
                winner[name] = index
    return sorted(winner.items(), key=lambda item: item[0].encode(errors="surrogateescape"))

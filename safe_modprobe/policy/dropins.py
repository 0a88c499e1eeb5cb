"""Select the drop-in files that count, and their order, over several folders as systemd does. Pure."""

from _collections_abc import Sequence

FOLDERS = (
    "/usr/lib/safe-modprobe/policy.d",
    "/run/safe-modprobe/policy.d",
    "/etc/safe-modprobe/policy.d",
)
"""The folders of the package, of this boot and of the administrator. A later folder's file replaces its namesakes."""

SUFFIX = ".toml"

MAX_BYTES = 1 << 20
"""The largest size of one drop-in."""

TRIAL_FILE = "00-trial.toml"
"""In /run, written by `safe-modprobectl enable --trial`. While it exists, the helper refuses no request."""

SITE_FILE = "10-site.toml"
"""In /etc: the administrator's rows, written by hand or by `safe-modprobectl mark`, `unmark` and `allow`."""

UNTIL_REBOOT_FILE = "09-until-reboot.toml"
"""In /run: what these commands write with --until-reboot. It sorts before SITE_FILE, so its rows match first."""


def effective_files(folders: Sequence[Sequence[str]]) -> list[tuple[str, int]]:
    """Return (name, index of its folder) of each drop-in that counts, in the order of precedence.

    `folders` are the names in each folder, the administrator's last. A later folder's name replaces an earlier one's.
    Hidden files and files without the suffix are ignored.
    """
    winner: dict[str, int] = {}
    for index, names in enumerate(folders):
        for name in names:
            if name.endswith(SUFFIX) and not name.startswith("."):
                winner[name] = index
    return sorted(winner.items(), key=lambda item: item[0].encode(errors="surrogateescape"))

"""The first boot: the package from its file, which switches nothing on; then one command."""

import os
import signal

from guest import Guest
from whole import APT, HELPER, KEY, UNIT, USUAL, ctl, current, failed, got, setup, state, well  # noqa: F401

DEB = "/deb/safe-modprobe_*.deb"
NEWER = "/var/tmp/newer.deb"
"""A newer version that keeps its modules in other rooms, so that files of both lie side by side during the upgrade."""

MAKE_NEWER = rf"""set -e
dpkg-deb -R {DEB} /var/tmp/newer
cd /var/tmp/newer
sed -i 's/^Version: .*/&+1/' DEBIAN/control
for room in callers log modules; do
    mv usr/lib/safe-modprobe/safe_modprobe/$room usr/lib/safe-modprobe/safe_modprobe/other_$room
    grep -rlE "safe_modprobe\.$room\b|\"$room/" usr/lib usr/sbin | xargs sed -i -E \
        "s/safe_modprobe\.$room\b/safe_modprobe.other_$room/; s/\"$room\//\"other_$room\//g"
done
dpkg-deb -b -Znone . {NEWER}
cd / && rm -r /var/tmp/newer"""


def test_apt_installs_it(guest: Guest) -> None:
    well(guest, "mkdir -p /var/lib/apt/lists/partial /var/cache/apt/archives/partial /var/log/apt")
    well(guest, f"{APT} install {DEB}")
    assert well(guest, "dpkg-query -W -f '${db:Status-Abbrev}' safe-modprobe") == "ii "


def test_that_alone_switches_nothing_on(guest: Guest) -> None:
    assert current() == USUAL
    assert state(guest, UNIT) == ("disabled", "inactive")
    assert got(guest, 1000), "this machine has nothing to protect"


def test_disable_before_it_was_ever_on_changes_nothing(guest: Guest) -> None:
    said = ctl(guest, "disable")
    assert (said["helper"], said["changed"], said["at_boot"]) == (USUAL, False, False), said


def test_enable_says_what_it_changes(guest: Guest) -> None:
    said = well(guest, "safe-modprobectl enable").splitlines()
    assert said == [
        f"kernel.modprobe is {HELPER} (was {USUAL})",
        f"{UNIT} now switches safe-modprobe on at every boot",
    ], said
    assert current() == HELPER
    assert state(guest, UNIT) == ("enabled", "active")
    assert state(guest, "safe-modprobe-watch.path")[1] == "active"


def test_enable_again_changes_nothing(guest: Guest) -> None:
    said = ctl(guest, "enable")
    assert (said["helper"], said["changed"], said["at_boot"]) == (HELPER, False, True), said


def test_a_user_is_refused_and_root_is_served(guest: Guest) -> None:
    assert not got(guest, 1000)
    assert got(guest, 0)


def test_disable_takes_it_back_and_enable_brings_it_again(guest: Guest) -> None:
    said = ctl(guest, "disable")
    assert (said["helper"], said["changed"], said["at_boot"]) == (USUAL, True, False), said
    assert state(guest, UNIT) == ("disabled", "inactive")
    assert got(guest, 1000)
    assert ctl(guest, "enable")["changed"] is True


def test_disable_for_this_boot_alone_keeps_the_unit(guest: Guest) -> None:
    assert ctl(guest, "disable --runtime")["at_boot"] is True
    assert current() == USUAL
    assert ctl(guest, "enable --runtime")["at_boot"] is True
    assert current() == HELPER


def test_an_upgrade_leaves_it_on_and_answers_meanwhile(guest: Guest) -> None:
    """A user and root ask all the time: the one never gets it, and the other always does."""
    well(guest, MAKE_NEWER)
    asker = os.fork()
    if asker == 0:
        asks = misses = 0

        def end(*_: object) -> None:
            guest.write("/run/asked", f"{asks} {misses}")
            os._exit(0)

        signal.signal(signal.SIGTERM, end)
        while True:
            guest.run_as(1000, lambda: guest.ask_socket(KEY, 3, 2))
            misses += "af_key" in guest.modules()
            guest.run_as(0, lambda: guest.ask_socket(KEY, 3, 2))
            misses += "af_key" not in guest.modules()
            guest.unload("af_key")
            asks += 1
    try:
        well(guest, f"{APT} install {NEWER}")
    finally:
        os.kill(asker, signal.SIGTERM)
        os.waitpid(asker, 0)
    with open("/run/asked") as file:
        asks, misses = map(int, file.read().split())
    assert asks > 3 and misses == 0, (asks, misses)
    assert well(guest, "dpkg-query -W -f '${Version}' safe-modprobe").endswith("+1")
    assert os.path.exists("/usr/lib/safe-modprobe/safe_modprobe/other_callers/find.py")
    assert not os.path.exists("/usr/lib/safe-modprobe/safe_modprobe/callers/find.py")
    assert current() == HELPER
    assert state(guest, UNIT) == ("enabled", "active")
    assert failed(guest) == []

"""The first boot: apt installs the package, which switches nothing on, and one command enables it."""

import os
import signal

from guest import Guest
from system import (
    APT,
    HELPER,
    KEY,
    UNIT,
    USUAL,
    check_output,
    ctl_json,
    failed_units,
    kernel_helper,
    loads_af_alg,
    setup,  # noqa: F401
    unit_state,
)

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


def test_apt_installs_the_package(guest: Guest) -> None:
    check_output(guest, "mkdir -p /var/lib/apt/lists/partial /var/cache/apt/archives/partial /var/log/apt")
    check_output(guest, f"{APT} install {DEB}")
    assert check_output(guest, "dpkg-query -W -f '${db:Status-Abbrev}' safe-modprobe") == "ii "


def test_installing_switches_nothing_on(guest: Guest) -> None:
    assert kernel_helper() == USUAL
    assert unit_state(guest, UNIT) == ("disabled", "inactive")
    assert loads_af_alg(guest, 1000), "af_alg cannot be loaded on this machine, so the tests would prove nothing"


def test_disable_before_the_first_enable_changes_nothing(guest: Guest) -> None:
    report = ctl_json(guest, "disable")
    assert (report["helper"], report["changed"], report["at_boot"]) == (USUAL, False, False), report


def test_enable_reports_what_it_changes(guest: Guest) -> None:
    output = check_output(guest, "safe-modprobectl enable").splitlines()
    assert output == [
        f"kernel.modprobe is {HELPER} (was {USUAL})",
        f"{UNIT} now switches safe-modprobe on at every boot",
    ], output
    assert kernel_helper() == HELPER
    assert unit_state(guest, UNIT) == ("enabled", "active")
    assert unit_state(guest, "safe-modprobe-watch.path")[1] == "active"


def test_enable_again_changes_nothing(guest: Guest) -> None:
    report = ctl_json(guest, "enable")
    assert (report["helper"], report["changed"], report["at_boot"]) == (HELPER, False, True), report


def test_a_user_is_refused_and_root_is_not(guest: Guest) -> None:
    assert not loads_af_alg(guest, 1000)
    assert loads_af_alg(guest, 0)


def test_disable_reverts_enable_and_enable_works_again(guest: Guest) -> None:
    report = ctl_json(guest, "disable")
    assert (report["helper"], report["changed"], report["at_boot"]) == (USUAL, True, False), report
    assert unit_state(guest, UNIT) == ("disabled", "inactive")
    assert loads_af_alg(guest, 1000)
    assert ctl_json(guest, "enable")["changed"] is True


def test_disable_runtime_keeps_the_unit_enabled(guest: Guest) -> None:
    assert ctl_json(guest, "disable --runtime")["at_boot"] is True
    assert kernel_helper() == USUAL
    assert ctl_json(guest, "enable --runtime")["at_boot"] is True
    assert kernel_helper() == HELPER


def test_requests_are_answered_correctly_during_an_upgrade(guest: Guest) -> None:
    """A user and root make requests all the time: every one of the user's is refused, and none of root's."""
    check_output(guest, MAKE_NEWER)
    requester = os.fork()
    if requester == 0:
        rounds = wrong = 0

        def end(*_: object) -> None:
            guest.write("/run/rounds", f"{rounds} {wrong}")
            os._exit(0)

        signal.signal(signal.SIGTERM, end)
        while True:
            guest.run_as(1000, lambda: guest.ask_socket(KEY, 3, 2))
            wrong += "af_key" in guest.modules()
            guest.run_as(0, lambda: guest.ask_socket(KEY, 3, 2))
            wrong += "af_key" not in guest.modules()
            guest.unload("af_key")
            rounds += 1
    try:
        check_output(guest, f"{APT} install {NEWER}")
    finally:
        os.kill(requester, signal.SIGTERM)
        os.waitpid(requester, 0)
    with open("/run/rounds") as file:
        rounds, wrong = map(int, file.read().split())
    assert rounds > 3 and wrong == 0, (rounds, wrong)
    assert check_output(guest, "dpkg-query -W -f '${Version}' safe-modprobe").endswith("+1")
    assert os.path.exists("/usr/lib/safe-modprobe/safe_modprobe/other_callers/find.py")
    assert not os.path.exists("/usr/lib/safe-modprobe/safe_modprobe/callers/find.py")
    assert kernel_helper() == HELPER
    assert unit_state(guest, UNIT) == ("enabled", "active")
    assert failed_units(guest) == []

"""A boot with safe_modprobe=log and a read-only root file system: safe-modprobe is on, and refuses no request."""

import errno
import json

from guest import Guest
from system import (
    HELPER,
    UNIT,
    check_output,
    failed_units,
    kernel_helper,
    loads_af_alg,
    setup,  # noqa: F401
    unit_state,
)


def test_it_is_on_and_refuses_no_request(guest: Guest) -> None:
    assert (kernel_helper(), unit_state(guest, UNIT)[1]) == (HELPER, "active")
    assert loads_af_alg(guest, 1000)


def test_a_read_only_root_file_system_is_enough(guest: Guest) -> None:
    try:
        guest.write("/etc/written", "")
    except OSError as error:
        assert error.errno == errno.EROFS, error
    else:
        raise AssertionError("the root file system is not read-only")
    assert UNIT not in failed_units(guest)


def test_it_records_what_it_would_refuse(guest: Guest) -> None:
    assert loads_af_alg(guest, 1000)
    text = check_output(guest, "journalctl -q -b -o json -t safe-modprobe SAFE_MODPROBE_VERDICT=log")
    assert "it would be denied without the trial" in text, text[-2000:]


def test_status_names_the_kernel_parameter(guest: Guest) -> None:
    done = guest.sh("safe-modprobectl status --json")
    output = json.loads(done.stdout)
    assert (done.returncode, output["state"]) == (1, "trial"), output
    assert "safe_modprobe=log on the kernel's command line" in output["problems"][0]["what"], output["problems"]

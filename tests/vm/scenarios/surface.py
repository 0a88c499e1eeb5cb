"""The verdicts in `surface` agree with real requests of the same callers on the running kernel."""

import json
import os

from guest import Guest

_SAMPLE = 9
"""Modules to request for each caller and verdict, spread over the alphabet. More would take too long."""

_BEFORE = "/run/surface.json"
"""The output of `surface` before any of these requests."""


def setup(guest: Guest) -> None:
    """Switch safe-modprobe on. Before the first test, load smp_ask and af_key and save the output of `surface`."""
    guest.switch_on()
    if not os.path.exists(_BEFORE):
        guest.sh("modprobe smp_ask; modprobe af_key")
        guest.write(_BEFORE, json.dumps(surface(guest)))


def surface(guest: Guest) -> dict:
    """Return the JSON output of `surface` on this machine."""
    done = guest.sh("safe-modprobectl surface --json")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


def sample(key: str, verdict: str) -> list:
    """Return (module, request) of some modules with this verdict for a caller."""
    with open(_BEFORE) as file:
        found = json.load(file)
    rows = [(each["module"], each["callers"][key]) for each in found["modules"] if key in each["callers"]]
    rows = [(module, judged["request"]) for module, judged in rows if judged["verdict"] == verdict]
    return rows[:: max(1, len(rows) // _SAMPLE)]


def request_all(guest: Guest, key: str, rows: list) -> dict:
    """Request each module that is not loaded, as this caller. Map the module to whether it is loaded then."""
    privileges = {
        "user": {},
        "userns-root": {"user_namespace": True},
        "network-admin": {"caps": ("CAP_NET_ADMIN",)},
    }[key]
    result = {}
    for module, request in rows:
        if module not in guest.modules():
            guest.run_as(60000, lambda request=request: guest.ask_raw(request.encode()), **privileges)
            result[module] = module in guest.modules()
    return result


def test_surface_describes_the_running_machine(guest: Guest) -> None:
    with open(_BEFORE) as file:
        found = json.load(file)
    assert found["running"] and found["kernel"] == guest.sh("uname -r").stdout.strip()
    assert len(found["policy"]["files"]) > 5 and len(found["modules"]) > 400
    assert [each["before"] > each["after"] for each in found["callers"]] == [True] * 3


def test_a_module_denied_to_a_user_is_not_loaded(guest: Guest) -> None:
    result = request_all(guest, "user", sample("user", "deny"))
    assert len(result) >= _SAMPLE // 2 and not any(result.values()), result


def test_a_module_denied_to_root_of_a_user_namespace_is_not_loaded(guest: Guest) -> None:
    result = request_all(guest, "userns-root", sample("userns-root", "deny"))
    assert len(result) >= _SAMPLE // 2 and not any(result.values()), result


def test_a_module_allowed_to_a_user_is_loaded(guest: Guest) -> None:
    """A few modules (aesni and others) need processor features that are missing here. modprobe as root fails too."""
    result = request_all(guest, "user", sample("user", "allow"))
    left = {module for module, loaded in result.items() if not loaded}
    assert sum(result.values()) >= _SAMPLE // 4, result
    assert {module for module in left if guest.sh(f"modprobe {module}").returncode == 0} == set()


def test_a_module_allowed_to_a_network_admin_is_loaded(guest: Guest) -> None:
    result = request_all(guest, "network-admin", sample("network-admin", "allow"))
    left = {module for module, loaded in result.items() if not loaded}
    assert sum(result.values()) >= _SAMPLE // 4, result
    assert {module for module in left if guest.sh(f"modprobe {module}").returncode == 0} == set()


def test_a_loaded_module_is_listed_as_present(guest: Guest) -> None:
    with open(_BEFORE) as file:
        found = json.load(file)
    assert "af_key" not in {each["module"] for each in found["modules"]}
    assert {"module": "af_key", "state": "live", "reach": "user"} in found["present"]

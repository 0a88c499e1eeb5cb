"""What `surface` counts is what the kernel does: its verdicts, asked of a running one by the callers that they are about."""

import json
import os

from guest import Guest

_EACH = 9
"""Modules of each verdict for each caller, from the whole alphabet: a matter of seconds."""

_BEFORE = "/run/surface.json"
"""What it said before anything was asked for."""


def setup(guest: Guest) -> None:
    """Before each test: switched on, and with the module that asks for any name."""
    guest.switch_on()
    if not os.path.exists(_BEFORE):
        guest.sh("modprobe smp_ask; modprobe af_key")
        guest.write(_BEFORE, json.dumps(surface(guest)))


def surface(guest: Guest) -> dict:
    """Its JSON, of the machine that it runs on."""
    done = guest.sh("safe-modprobectl surface --json")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


def spread(key: str, verdict: str) -> list:
    """Some of the modules with that verdict for a caller."""
    with open(_BEFORE) as file:
        found = json.load(file)
    rows = [(each["module"], each["callers"][key]) for each in found["modules"] if key in each["callers"]]
    rows = [(module, judged["request"]) for module, judged in rows if judged["verdict"] == verdict]
    return rows[:: max(1, len(rows) // _EACH)]


def asked(guest: Guest, key: str, rows: list) -> dict:
    """module -> whether it is in the kernel once that caller has asked for it, as it was not before."""
    who = {
        "user": {},
        "userns-root": {"user_namespace": True},
        "network-admin": {"caps": ("CAP_NET_ADMIN",)},
    }[key]
    result = {}
    for module, request in rows:
        if module not in guest.modules():
            guest.run_as(60000, lambda request=request: guest.ask_raw(request.encode()), **who)
            result[module] = module in guest.modules()
    return result


def test_it_is_the_running_machine(guest: Guest) -> None:
    with open(_BEFORE) as file:
        found = json.load(file)
    assert found["running"] and found["kernel"] == guest.sh("uname -r").stdout.strip()
    assert len(found["policy"]["files"]) > 5 and len(found["modules"]) > 400
    assert [each["before"] > each["after"] for each in found["callers"]] == [True] * 3


def test_what_a_user_is_refused_is_not_loaded(guest: Guest) -> None:
    result = asked(guest, "user", spread("user", "deny"))
    assert len(result) >= _EACH // 2 and not any(result.values()), result


def test_what_root_of_a_user_namespace_is_refused_is_not_loaded(guest: Guest) -> None:
    result = asked(guest, "userns-root", spread("userns-root", "deny"))
    assert len(result) >= _EACH // 2 and not any(result.values()), result


def test_what_a_user_gets_is_loaded(guest: Guest) -> None:
    """But for the few that find no processor of theirs (aesni and the like): modprobe by root cannot load those either."""
    result = asked(guest, "user", spread("user", "allow"))
    left = {module for module, there in result.items() if not there}
    assert sum(result.values()) >= _EACH // 4, result
    assert {module for module in left if guest.sh(f"modprobe {module}").returncode == 0} == set()


def test_what_a_network_admin_gets_is_loaded(guest: Guest) -> None:
    result = asked(guest, "network-admin", spread("network-admin", "allow"))
    left = {module for module, there in result.items() if not there}
    assert sum(result.values()) >= _EACH // 4, result
    assert {module for module in left if guest.sh(f"modprobe {module}").returncode == 0} == set()


def test_what_is_loaded_is_no_longer_counted(guest: Guest) -> None:
    with open(_BEFORE) as file:
        found = json.load(file)
    assert "af_key" not in {each["module"] for each in found["modules"]}
    assert {"module": "af_key", "state": "live", "reach": "user"} in found["present"]

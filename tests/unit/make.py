"""Short constructors for test rows: callers, plans, policies and verdicts."""

from safe_modprobe.callers.find import find_callers
from safe_modprobe.callers.kernel_args import parse
from safe_modprobe.capability import ALL, SYS_MODULE, Capability, parse_capability
from safe_modprobe.decide import caller_query, decide
from safe_modprobe.model import (
    UNMARKED,
    Caller,
    Marker,
    Plan,
    Policy,
    Request,
    Source,
    Step,
    Target,
    TargetState,
    Verdict,
)
from safe_modprobe.policy.schema import build


class NoAccounts:
    """Accounts with only the names that the rows use, so that the machine's accounts do not matter."""

    def uid(self, name: str) -> int | None:
        return {"root": 0, "asterisk": 1001}.get(name)

    def gid(self, name: str) -> int | None:
        return {"root": 0, "audio": 29}.get(name)


def policy(text: str) -> Policy:
    return build([("p/50-test.toml", text.encode())], NoAccounts())


def cap(name: str) -> Capability:
    found = parse_capability(name)
    assert found is not None
    return found


def caller(uid: int = 1000, *caps: str, initial: bool = True, **more: object) -> Caller:
    mask = sum(1 << cap(name) for name in caps) if caps or uid else ALL
    found = Caller(Source.TRACEFS, uid, uid, frozenset({uid}), mask, initial, no_new_privs=False)
    return found._replace(**more)  # type: ignore[arg-type]


USER = caller()
ROOT = caller(0)
UNKNOWN = Caller(Source.NONE)
Y = Marker("Y", SYS_MODULE)
N = Marker("N")
NET = Marker("CAP_NET_ADMIN", cap("CAP_NET_ADMIN"))


def step(name: str, marker: Marker = UNMARKED, *needs: str, **more: object) -> Step:
    return Step(name, f"/m/{name}.ko", marker=marker, needs=needs)._replace(**more)  # type: ignore[arg-type]


def plan(*steps: Step, alias: str = "x") -> Plan:
    """Return a plan with one new target, which is the last step."""
    return Plan(alias, (Target(steps[-1].module, TargetState.NEW, steps),))


def verdict(alias: str, who: Caller, steps: Plan, text: str = "", *args: str) -> Verdict:
    """Return the verdict of a policy, given as text."""
    return decide(policy(text), parse(["--", alias, *args]).request, who, steps)


def callers_under(policy: Policy, request: Request) -> tuple[Caller, ...]:
    """Search for the callers as the helper does for this policy."""
    return find_callers(request, caller_query(policy, request))

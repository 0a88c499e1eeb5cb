"""Parse a policy's own tests, TOML tables of request, caller and expected verdict, and judge each case. Pure.

A file of cases looks like this:

    [callers]                       # optional names for callers
    user = { uid = 1000 }

    [[case]]
    name = "a user gets no AF_ALG"
    request = "net-pf-38"           # a list makes one case for each alias
    modules = ["af_alg"]            # the plan, so that the case runs on any kernel
    caller = "user"                 # a name, a table, or a list: one case for each caller
    verdict = "deny"
    origin = "50-exploited-2026.toml"
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from safe_modprobe.callers import kernel_args
from safe_modprobe.capability import ALL, SYS_MODULE, parse_capability
from safe_modprobe.decide import combine, decide
from safe_modprobe.errors import UsageError
from safe_modprobe.light_types import NamedTuple
from safe_modprobe.log.report import describe_caller, needs_record, skipped_modules
from safe_modprobe.model import (
    UNKNOWN_CALLER,
    UNMARKED,
    Action,
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
from safe_modprobe.policy.lines import Path
from safe_modprobe.policy.schema import (
    Accounts,
    Check,
    Document,
    InvalidValueError,
    capability,
    flag,
    group,
    list_of,
    one_of,
    quote_value,
    set_of,
    string,
    user,
)


class Case(NamedTuple):
    """One request and its expected verdict. An expectation that is None or empty is not checked.

    `callers` are blocked in the request at the same time: the caller, and those of `beside`. `plan` is a hypothetical
    plan; None takes the plan of the kernel at hand. `origin` is FILE or FILE:LINE. `skipped` are the soft dependencies
    that must be skipped. `quiet` means that no record is written.
    """

    path: str
    line: int
    name: str
    request: Request
    callers: tuple[Caller, ...]
    plan: Plan | None
    action: Action
    origin: str = ""
    skipped: frozenset[str] | None = None
    quiet: bool | None = None

    @property
    def place(self) -> str:
        """FILE:LINE of the case."""
        return f"{self.path}:{self.line}"


class Outcome(NamedTuple):
    """The result of a case. `problem` says what was expected and what was decided; "" if both agree."""

    case: Case
    verdict: Verdict
    problem: str

    @property
    def vacuous(self) -> bool:
        """Whether there was nothing to judge: every module is in the kernel already, or no module has the alias."""
        return not any(target.steps for target in self.verdict.targets)


def judge(policy: Policy, case: Case, plan: Plan) -> Outcome:
    """Make the decision that the helper would make, but ignore a trial: the case tests what the policy says."""
    policy = policy._replace(settings=policy.settings._replace(trial=False))
    verdict = combine(tuple(decide(policy, case.request, caller, plan) for caller in case.callers))
    expected, actual = _expected(case), _actual(case, verdict)
    same_place = not case.origin or case.origin in (verdict.origin.file, str(verdict.origin))
    if same_place and expected == actual:
        return Outcome(case, verdict, "")
    by = f" by {case.origin}" if case.origin else ""
    return Outcome(case, verdict, f"expected {expected}{by}, got {actual} ({verdict.reason} [{verdict.origin}])")


def _expected(case: Case) -> str:
    return _describe(case.action, case.skipped, case.quiet)


def _actual(case: Case, verdict: Verdict) -> str:
    return _describe(
        verdict.action,
        None if case.skipped is None else frozenset(skipped_modules(verdict)),
        None if case.quiet is None else not needs_record(verdict),
    )


def _describe(action: Action, skipped: frozenset[str] | None, quiet: bool | None) -> str:
    parts = [str(action)]
    if skipped is not None:
        parts.append(f"skipping {', '.join(sorted(skipped)) or 'nothing'}")
    if quiet is not None:
        parts.append("unrecorded" if quiet else "recorded")
    return " ".join(parts)


def parse_cases(path: str, content: bytes, accounts: Accounts) -> tuple[Case, ...]:
    """Return the cases of a file, in its order.

    Raises PolicyError with one sentence, `path:line: key: what it was, what it may be`.
    """
    return _CaseParser(Document(path, content), accounts).cases()


def _unchecked(value: Any, accounts: Accounts) -> Any:
    """Return the value as it is. The parser checks it later, when it knows the lines of the parts."""
    return value


def _alias(value: Any, accounts: Accounts) -> str:
    """Return an alias. Any string is allowed, because an attacker chooses it."""
    if not isinstance(value, str):
        raise InvalidValueError(f"{quote_value(value)} is not a string such as 'net-pf-38'")
    return value


def _marker(value: Any, accounts: Accounts) -> Marker:
    if value == "N":
        return Marker("N")
    need = SYS_MODULE if value == "Y" else parse_capability(value) if isinstance(value, str) else None
    if need is None:
        raise InvalidValueError(f"{quote_value(value)} is not 'Y', 'N' or a capability such as 'CAP_NET_ADMIN'")
    return Marker(value, need)


_CASE: Mapping[str, Check] = {
    "name": string,
    "request": _unchecked,
    "kernel_args": list_of(_alias),
    "modules": _unchecked,
    "caller": _unchecked,
    "beside": _unchecked,
    "verdict": one_of(*Action),
    "origin": string,
    "skipped": list_of(string),
    "quiet": flag,
}
_MODULE: Mapping[str, Check] = {
    "name": string,
    "marker": _marker,
    "soft": flag,
    "registers_filesystem": flag,
}
_CALLER: Mapping[str, Check] = {
    "uid": user,
    "euid": user,
    "groups": set_of(group),
    "capabilities": set_of(capability),
    "user_namespace": one_of("initial", "other"),
    "no_new_privs": flag,
    "kernel_thread": flag,
    "unit": string,
    "executable": string,
    "call_site": string,
    "source": one_of(*Source),
    "behind": _unchecked,
}
KEYS = {"case": _CASE, "modules": _MODULE, "caller": _CALLER}
"""The keys of each kind of table, with the check for each value."""

UNKNOWN = "unknown"
"""The reserved name of the caller that no source could identify."""


class _CaseParser:
    def __init__(self, document: Document, accounts: Accounts) -> None:
        self.document = document
        self.accounts = accounts
        self.named: dict[str, Caller] = {UNKNOWN: UNKNOWN_CALLER}

    def cases(self) -> tuple[Case, ...]:
        tables = self.document.tables
        for key in tables:
            if key not in ("callers", "case"):
                self._fail((key,), "no such table; a file of tests has 'callers' and 'case'")
        named, rows = tables.get("callers", {}), tables.get("case", [])
        if not isinstance(named, dict):
            self._fail(("callers",), f"{quote_value(named)} is not a table; write [callers]")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self._fail(("case",), f"{quote_value(rows)} is not an array of tables; write [[case]]")
        for name, row in named.items():
            if name == UNKNOWN:
                self._fail(("callers", name), "this name is reserved for an unidentified caller; choose another")
            self.named[name] = self._caller(("callers", name), row)
        return tuple(case for index, row in enumerate(rows) for case in self._case(("case", index), row))

    def _case(self, path: Path, row: Mapping[str, Any]) -> Iterable[Case]:
        values = self.document.checked(path, row, _CASE, self.accounts)
        for key, what in (("request", "it is the alias to request"), ("verdict", "it is the expected verdict")):
            if key not in values:
                self._fail(path, f"'{key}' is missing; {what}")
        requests = self._requests((*path, "request"), values["request"], values.get("kernel_args", ()))
        steps = self._steps((*path, "modules"), values["modules"]) if "modules" in values else None
        beside = self._callers((*path, "beside"), values["beside"]) if "beside" in values else ()
        for request in requests:
            callers = self._callers_of(path, values, request)
            for caller in callers:
                yield Case(
                    self.document.path,
                    self.document.line(path),
                    _name(values.get("name", ""), request, caller, len(requests) > 1, len(callers) > 1),
                    request,
                    (caller, *beside),
                    None if steps is None else _plan(request.alias, steps),
                    Action(values["verdict"]),
                    values.get("origin", ""),
                    frozenset(values["skipped"]) if "skipped" in values else None,
                    values.get("quiet"),
                )

    def _requests(self, path: Path, value: Any, args: Sequence[str]) -> list[Request]:
        aliases = value if isinstance(value, list) else [value]
        if not aliases:
            self._fail(path, "[] contains no alias; give at least one")
        requests = []
        for index, alias in enumerate(aliases):
            at = (*path, index) if isinstance(value, list) else path
            try:
                requests.append(kernel_args.parse(["--", _alias(alias, self.accounts), *args]).request)
            except (InvalidValueError, UsageError) as error:
                self._fail(at, str(error))
        return requests

    def _steps(self, path: Path, value: Any) -> list[tuple[Step, bool]]:
        """Return each module as a step, with whether it is a soft dependency of the last one."""
        if not isinstance(value, list):
            self._fail(path, f"{quote_value(value)} is not a list; write [{quote_value(value)}]")
        steps = [self._step((*path, index), each) for index, each in enumerate(value)]
        if not steps:
            self._fail(
                path, "[] loads nothing; name at least one module, or omit the key to use the plan of this kernel"
            )
        names = [step.module for step, _ in steps]
        duplicate = next((name for name in names if names.count(name) > 1), None)
        if duplicate is not None:
            self._fail(path, f"{quote_value(duplicate)} is listed twice; a module is inserted once")
        if steps[-1][1]:
            self._fail(path, "the last module is the target of the request, so it cannot be a soft dependency")
        return steps

    def _step(self, path: Path, value: Any) -> tuple[Step, bool]:
        row = {"name": value} if isinstance(value, str) else value
        if not isinstance(row, dict):
            self._fail(
                path, f"{quote_value(value)} is not a module; write 'af_alg', or {{ name = 'af_alg', marker = 'Y' }}"
            )
        values = self.document.checked(path, row, _MODULE, self.accounts)
        if not values.get("name"):
            self._fail(path, "'name' is missing; it is the module's name")
        registers = values.get("registers_filesystem", True)
        step = Step(values["name"], marker=values.get("marker", UNMARKED), registers_filesystem=registers)
        return step, values.get("soft", False)

    def _callers_of(self, path: Path, values: Mapping[str, Any], request: Request) -> tuple[Caller, ...]:
        """Return the callers, one case each. If the kernel arguments name the caller, return that one."""
        if request.claim.unprivileged:
            if "caller" in values:
                self._fail((*path, "caller"), "'kernel_args' name the caller already; remove one of the two")
            return (kernel_args.claimed_caller(request.claim),)
        if "caller" not in values:
            self._fail(path, "'caller' is missing; it is a table such as { uid = 1000 }")
        return self._callers((*path, "caller"), values["caller"])

    def _callers(self, path: Path, value: Any) -> tuple[Caller, ...]:
        """Parse one caller, or a list of them."""
        if not isinstance(value, list):
            return (self._caller(path, value),)
        if not value:
            self._fail(path, f"[] contains no caller; name at least one, or write '{UNKNOWN}'")
        return tuple(self._caller((*path, index), each) for index, each in enumerate(value))

    def _caller(self, path: Path, value: Any) -> Caller:
        if isinstance(value, str) and value in self.named:
            return self.named[value]
        if not isinstance(value, dict):
            known = ", ".join(map(quote_value, self.named))
            self._fail(path, f"{quote_value(value)} is not a caller; write {{ uid = 1000 }}, or one of {known}")
        values = self.document.checked(path, value, _CALLER, self.accounts)
        thread = values.get("kernel_thread", False)
        if "uid" not in values and not thread:
            self._fail(
                path, f"it identifies no caller; give 'uid' or kernel_thread = true, or write '{UNKNOWN}' instead"
            )
        if "behind" in values and not thread:
            self._fail((*path, "behind"), "only a kernel thread works for other tasks; add kernel_thread = true")
        uid = values.get("uid", 0)
        euid = values.get("euid", uid)
        mask = sum(1 << each for each in values["capabilities"]) if "capabilities" in values else ALL
        return Caller(
            Source(values.get("source", Source.TRACEFS)),
            uid,
            euid,
            values.get("groups", frozenset()),
            mask if euid == 0 or "capabilities" in values else 0,
            values.get("user_namespace", "initial") == "initial",
            values.get("no_new_privs", False),
            thread,
            executable=values.get("executable"),
            unit=values.get("unit"),
            call_site=values.get("call_site"),
            working_for=self._callers((*path, "behind"), values["behind"]) if "behind" in values else (),
        )

    def _fail(self, path: Path, message: str) -> NoReturn:
        self.document.fail(path, message)


def _name(own: str, request: Request, caller: Caller, of_several: bool, to_several: bool) -> str:
    """Return the name to print: the case's own, with the request and caller if it has several."""
    if not own:
        return f"{request.alias} to {describe_caller(caller)}"
    parts = [request.alias] * of_several + [f"to {describe_caller(caller)}"] * to_several
    return f"{own} ({' '.join(parts)})" if parts else own


def _plan(alias: str, steps: Sequence[tuple[Step, bool]]) -> Plan:
    """Return a plan with the last module as its target. It needs all modules before it except soft ones."""
    *before, (last, _) = steps
    target = last._replace(needs=tuple(step.module for step, soft in before if not soft))
    return Plan(alias, (Target(target.module, TargetState.NEW, (*[step for step, _ in before], target)),))

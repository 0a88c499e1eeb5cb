"""A policy's own tests: TOML tables of request, caller and expected verdict -> cases, and what came of each. Pure.

[callers]                       # names for this file's callers, if wanted
user = { uid = 1000 }

[[case]]
name = "a user gets no AF_ALG"
request = "net-pf-38"           # or a list: each is a case of its own
modules = ["af_alg"]            # as if these had to be inserted, so that it runs on any kernel
caller = "user"                 # or a table, or a list: each is a case of its own
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
    """One request and what is expected of it; what is None or empty is not asked about.

    `callers` wait for it at the same time: the caller, and those beside it. `plan` is a hypothetical one; None: what
    the kernel at hand needs. `origin` is a file, or FILE:LINE; `skipped` are the soft dependencies that are left out;
    `quiet`: no record.
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
        """FILE:LINE."""
        return f"{self.path}:{self.line}"


class Outcome(NamedTuple):
    """What a case came to; `problem` is what was expected and what came instead, "" where that is the same."""

    case: Case
    verdict: Verdict
    problem: str

    @property
    def vacuous(self) -> bool:
        """Whether there was nothing to judge: all is in the kernel already, or no module answers."""
        return not any(target.steps for target in self.verdict.targets)


def judge(policy: Policy, case: Case, plan: Plan) -> Outcome:
    """The very decision that the helper would make, but for a trial: what the policy says is the question."""
    policy = policy._replace(settings=policy.settings._replace(trial=False))
    verdict = combine(tuple(decide(policy, case.request, caller, plan) for caller in case.callers))
    expected, got = _words(case), _got(case, verdict)
    same_place = not case.origin or case.origin in (verdict.origin.file, str(verdict.origin))
    if same_place and expected == got:
        return Outcome(case, verdict, "")
    by = f" by {case.origin}" if case.origin else ""
    return Outcome(case, verdict, f"expected {expected}{by}, got {got} ({verdict.reason} [{verdict.origin}])")


def _words(case: Case) -> str:
    return _described(case.action, case.skipped, case.quiet)


def _got(case: Case, verdict: Verdict) -> str:
    return _described(
        verdict.action,
        None if case.skipped is None else frozenset(skipped_modules(verdict)),
        None if case.quiet is None else not needs_record(verdict),
    )


def _described(action: Action, left_out: frozenset[str] | None, quiet: bool | None) -> str:
    parts = [str(action)]
    if left_out is not None:
        parts.append(f"without {', '.join(sorted(left_out)) or 'nothing'}")
    if quiet is not None:
        parts.append("unrecorded" if quiet else "recorded")
    return " ".join(parts)


def parse_cases(path: str, content: bytes, accounts: Accounts) -> tuple[Case, ...]:
    """The cases of a file, in its order.

    Raises PolicyError, one sentence `path:line: key: what it was, what it may be`.
    """
    return _Reader(Document(path, content), accounts).cases()


def _anything(value: Any, accounts: Accounts) -> Any:
    """Looked at later, where the lines of its parts are known."""
    return value


def _alias(value: Any, accounts: Accounts) -> str:
    """Any bytes that UTF-8 can hold: attackers name what they like."""
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
    "request": _anything,
    "kernel_args": list_of(_alias),
    "modules": _anything,
    "caller": _anything,
    "beside": _anything,
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
    "behind": _anything,
}
KEYS = {"case": _CASE, "modules": _MODULE, "caller": _CALLER}
"""The keys of each kind of table, and what checks their values."""

UNKNOWN = "unknown"
"""The name of the caller whom no source could name."""


class _Reader:
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
                self._fail(("callers", name), "that name stands for the caller whom nobody knows; take another")
            self.named[name] = self._caller(("callers", name), row)
        return tuple(case for index, row in enumerate(rows) for case in self._case(("case", index), row))

    def _case(self, path: Path, row: Mapping[str, Any]) -> Iterable[Case]:
        values = self.document.checked(path, row, _CASE, self.accounts)
        for key, what in (("request", "it says what the kernel asks for"), ("verdict", "it says what is expected")):
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
            self._fail(path, "[] asks for nothing; name at least one")
        requests = []
        for index, alias in enumerate(aliases):
            at = (*path, index) if isinstance(value, list) else path
            try:
                requests.append(kernel_args.parse(["--", _alias(alias, self.accounts), *args]).request)
            except (InvalidValueError, UsageError) as error:
                self._fail(at, str(error))
        return requests

    def _steps(self, path: Path, value: Any) -> list[tuple[Step, bool]]:
        """Each module as a step, and whether it is only a soft dependency of the last one."""
        if not isinstance(value, list):
            self._fail(path, f"{quote_value(value)} is not a list; write [{quote_value(value)}]")
        steps = [self._step((*path, index), each) for index, each in enumerate(value)]
        if not steps:
            self._fail(path, "[] loads nothing; name at least one, or leave the key out for what this kernel needs")
        names = [step.module for step, _ in steps]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            self._fail(path, f"{quote_value(twice)} is there twice; a module is inserted once")
        if steps[-1][1]:
            self._fail(path, "the last one is what the request stands for, so it cannot be a soft dependency")
        return steps

    def _step(self, path: Path, value: Any) -> tuple[Step, bool]:
        row = {"name": value} if isinstance(value, str) else value
        if not isinstance(row, dict):
            self._fail(
                path, f"{quote_value(value)} is not a module; write 'af_alg', or {{ name = 'af_alg', marker = 'Y' }}"
            )
        values = self.document.checked(path, row, _MODULE, self.accounts)
        if not values.get("name"):
            self._fail(path, "'name' is missing; it is the module's")
        registers = values.get("registers_filesystem", True)
        step = Step(values["name"], marker=values.get("marker", UNMARKED), registers_filesystem=registers)
        return step, values.get("soft", False)

    def _callers_of(self, path: Path, values: Mapping[str, Any], request: Request) -> tuple[Caller, ...]:
        """Each for a case of its own; the one whom the kernel's arguments name, where they do."""
        if request.claim.unprivileged:
            if "caller" in values:
                self._fail((*path, "caller"), "'kernel_args' say who asks already; leave one of them out")
            return (kernel_args.claimed_caller(request.claim),)
        if "caller" not in values:
            self._fail(path, "'caller' is missing; it is a table such as { uid = 1000 }")
        return self._callers((*path, "caller"), values["caller"])

    def _callers(self, path: Path, value: Any) -> tuple[Caller, ...]:
        """One, or a list of them."""
        if not isinstance(value, list):
            return (self._caller(path, value),)
        if not value:
            self._fail(path, f"[] is nobody; name at least one, or write '{UNKNOWN}'")
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
            self._fail(path, f"it names nobody; give 'uid' or kernel_thread = true, or write '{UNKNOWN}' instead")
        if "behind" in values and not thread:
            self._fail((*path, "behind"), "only a kernel thread works for others; add kernel_thread = true")
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


def _name(given: str, request: Request, caller: Caller, of_several: bool, to_several: bool) -> str:
    """What a person reads: the case's name, and which of its requests and callers this is."""
    if not given:
        return f"{request.alias} to {describe_caller(caller)}"
    parts = [request.alias] * of_several + [f"to {describe_caller(caller)}"] * to_several
    return f"{given} ({' '.join(parts)})" if parts else given


def _plan(alias: str, steps: Sequence[tuple[Step, bool]]) -> Plan:
    """One new target, the last; it needs all before it but the soft ones."""
    *before, (last, _) = steps
    target = last._replace(needs=tuple(step.module for step, soft in before if not soft))
    return Plan(alias, (Target(target.module, TargetState.NEW, (*[step for step, _ in before], target)),))

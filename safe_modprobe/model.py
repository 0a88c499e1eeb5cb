"""The terms of the design as types: no input, no output, no decision.

The types are named tuples because `import dataclasses` triples the start-up time of each request: 26.8 ms
against 8.8 ms for the bare interpreter, as measured.
"""

from _collections_abc import Mapping

from safe_modprobe.capability import Capability
from safe_modprobe.light_types import NamedTuple, StrEnum

UID_MAX = 2**32 - 2
"""The largest uid and gid. The next number is -1, which chown(2) reads as "leave unchanged"."""


class Action(StrEnum):
    """The decision on a step, a target or a whole request. LOG allows and records a warning."""

    ALLOW = "allow"
    LOG = "log"
    DENY = "deny"


class Mode(StrEnum):
    """The thread's `modules_autoload_mode` 0, 1 and 2, and `marked` between 0 and 1."""

    ALLOWED = "allowed"
    MARKED = "marked"
    PRIVILEGED = "privileged"
    DISABLED = "disabled"


class Source(StrEnum):
    """Where the helper learnt who the caller is. Documentation: safe-modprobe(8)."""

    KERNEL_ARGS = "kernel-args"
    BPF = "bpf"
    TRACEFS = "tracefs"
    PROC = "proc"
    NONE = "none"


class Claim(NamedTuple):
    """What a patched kernel claims about the caller, by the arguments after the alias.

    `unprivileged`: the kernel named a caller without privilege (grsec_modharden_normalN_), or an argument is
    unknown. `filesystem` and `netdev`: the arguments grsec_modharden_fs and grsec_modharden_netdev were present.
    `capabilities`: a mask with the capability that the call site declares and the caller holds (modharden_capN_).
    """

    unprivileged: bool = False
    uid: int | None = None
    filesystem: bool = False
    netdev: bool = False
    capabilities: int = 0


class Request(NamedTuple):
    """One run of the helper by the kernel: the alias (untrusted, surrogateescape) and the kernel arguments."""

    alias: str
    kernel_args: tuple[str, ...] = ()
    claim: Claim = Claim()


class Caller(NamedTuple):
    """The task that was in request_module(), as it was while it waited there. None means unknown.

    `uid` and `euid` are the real and effective uid in the initial user namespace. `capabilities` is the effective
    mask, which counts only with `initial_user_namespace`. `may_hold` is the mask of those that it may hold besides.
    `unit` is systemd's and `executable` a path in the initial mount namespace; see `seen` for their None.
    `working_for` are the tasks that a kernel thread may be working for. `tid` is the thread, `pid` its process.
    """

    source: Source
    uid: int | None = None
    euid: int | None = None
    gids: frozenset[int] | None = None
    capabilities: int = 0
    initial_user_namespace: bool | None = None
    no_new_privs: bool | None = None
    kernel_thread: bool = False
    tid: int | None = None
    comm: str | None = None
    executable: str | None = None
    unit: str | None = None
    call_site: str | None = None
    working_for: tuple["Caller", ...] = ()
    pid: int | None = None
    may_hold: int = 0

    @property
    def known(self) -> bool:
        """Whether a source named the caller's uid or at least a capability."""
        return self.uid is not None or self.capabilities != 0

    @property
    def seen(self) -> bool:
        """Whether a source inspected the task. If so, a `unit`, `executable` or `call_site` of None means absent."""
        return self.no_new_privs is not None


UNKNOWN_CALLER = Caller(Source.NONE)


class Marker(NamedTuple):
    """`privileged=…` of a module's .modinfo.

    `written` is the value, or the reason why it could not be read; None without a marker.
    `capability` is the one that the module requires; None if it requires no privilege.
    """

    written: str | None = None
    capability: Capability | None = None


UNMARKED = Marker()


class CallerQuery(NamedTuple):
    """The parts of the policy that the search for a request's callers needs.

    `sources` are tried in this order. `kernel_args_always`: this kernel passes kernel arguments for every
    unprivileged caller. `deputy`: the alias belongs to a deputy's call site, so kernel arguments do not name the
    requester. `needs_details`: a rule depends on details of the caller that kernel arguments lack.
    """

    sources: tuple[Source, ...]
    kernel_args_always: bool = False
    deputy: bool = False
    needs_details: bool = False


class Step(NamedTuple):
    """A module to be inserted that is not in the kernel yet.

    `install`: modprobe.d has an `install` command for it. `needs` names the modules that its symbols depend on.
    `fd` is the open file, `image` the descriptor to load: the same one or a decompressed sealed copy. Both are -1
    if the file could not be read.
    """

    module: str
    path: str | None = None
    options: str = ""
    install: bool = False
    marker: Marker = UNMARKED
    needs: tuple[str, ...] = ()
    registers_filesystem: bool = True
    fd: int = -1
    image: int = -1


class TargetState(StrEnum):
    """Whether a target must be loaded, is in the kernel already, or is blacklisted by modprobe.d."""

    NEW = "new"
    LIVE = "live"
    BUILT_IN = "builtin"
    BLACKLISTED = "blacklisted"


class Target(NamedTuple):
    """One of the modules that the alias maps to, and the steps that load it, dependencies first.

    `weak` names its weak dependencies. modprobe(8) does not load them; the module requests them itself.
    """

    module: str
    state: TargetState
    steps: tuple[Step, ...] = ()
    weak: tuple[str, ...] = ()


class Plan(NamedTuple):
    """All targets that would satisfy the alias, without any if no module matches it."""

    alias: str
    targets: tuple[Target, ...] = ()


class Origin(NamedTuple):
    """The place in the policy that decided; line 0 stands for a whole file or the built-in policy."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


BUILT_IN = Origin("built-in")
COMMAND_LINE = Origin("safe_modprobe=log on the kernel's command line")


BY_MARKER = "marker"
"""The value of a mark's `privileged` that defers to the module's marker."""


class Mark(NamedTuple):
    """The policy's decision about modules, which overrides their markers. Empty patterns match everything.

    `capability` is the one required, None for no privilege. `by_marker` defers to the module's marker instead.
    `quiet`: a refusal because of this mark is not recorded.
    """

    origin: Origin
    modules: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    capability: Capability | None = None
    by_marker: bool = False
    quiet: bool = False
    reason: str = ""


class CallSite(NamedTuple):
    """A row about an alias: the capability that suffices for it, or that its caller is a deputy."""

    origin: Origin
    aliases: tuple[str, ...]
    capability: Capability | None = None
    deputy: bool = False
    reason: str = ""


class Rule(NamedTuple):
    """A row that decides a request. Every key that is not None must match; a list matches any of its members."""

    origin: Origin
    action: Action
    name: str = ""
    modules: tuple[str, ...] | None = None
    aliases: tuple[str, ...] | None = None
    users: frozenset[int] | None = None
    groups: frozenset[int] | None = None
    capabilities: frozenset[Capability] | None = None
    units: tuple[str, ...] | None = None
    executables: tuple[str, ...] | None = None
    call_sites: tuple[str, ...] | None = None
    user_namespace: str | None = None
    no_new_privs: bool | None = None
    callers: str | None = None
    quiet: bool = False
    reason: str = ""


class Settings(NamedTuple):
    """The settings with their defaults. `origins` maps a key to the place that set it."""

    mode: Mode = Mode.MARKED
    mismatch: Action = Action.DENY
    unknown_caller_privileged: bool = False
    sources: tuple[Source, ...] = (Source.KERNEL_ARGS, Source.BPF, Source.TRACEFS, Source.PROC)
    kernel_args_always: bool = False
    forward_kernel_args: bool = False
    trial: bool = False
    origins: Mapping[str, Origin] = {}

    def origin(self, key: str) -> Origin:
        """Return the place that set this key, BUILT_IN for a default."""
        return self.origins.get(key, BUILT_IN)


class Policy(NamedTuple):
    """All files as one, each list in the order of precedence. `files` are the paths that were read."""

    settings: Settings = Settings()
    marks: tuple[Mark, ...] = ()
    call_sites: tuple[CallSite, ...] = ()
    rules: tuple[Rule, ...] = ()
    files: tuple[str, ...] = ()

    def in_trial(self, origin: Origin) -> "Policy":
        """Return this policy with the trial switched on by `origin`, so that it refuses nothing."""
        settings = self.settings
        return self._replace(settings=settings._replace(trial=True, origins={**settings.origins, "trial": origin}))


class StepVerdict(NamedTuple):
    """The decision about one step; `need` is the capability that the step required of the caller.

    `barred` names what must change because no new rule can allow the step; "" if a rule can.
    """

    step: Step
    action: Action
    reason: str
    origin: Origin
    need: Capability | None = None
    quiet: bool = False
    barred: str = ""


class TargetVerdict(NamedTuple):
    """A target with its judged steps. The helper inserts no step of a refused target."""

    target: Target
    action: Action
    steps: tuple[StepVerdict, ...] = ()


class Verdict(NamedTuple):
    """The answer to a request: the action, the reason, and the place in the policy that decided.

    `quiet`: every deciding step is quiet, so the request is not recorded.
    """

    action: Action
    reason: str
    origin: Origin
    request: Request
    caller: Caller
    targets: tuple[TargetVerdict, ...] = ()
    quiet: bool = False

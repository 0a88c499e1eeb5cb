"""The words of the design as types. No input, no output, no decision.

They are named tuples, not dataclasses: both are frozen, but `import dataclasses` alone costs twice what the
bare interpreter costs (26.8 against 8.8 ms where this was measured), and every module request pays for it.
"""

from _collections_abc import Mapping

from safe_modprobe.capability import Capability
from safe_modprobe.light_types import NamedTuple, StrEnum

UID_MAX = 2**32 - 2
"""The largest uid and gid: chown(2) takes -1 for "leave unchanged"."""


class Action(StrEnum):
    """What is done about a step, a target or a whole request."""

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
    """Where we learnt who the caller is."""

    KERNEL_ARGS = "kernel-args"
    BPF = "bpf"
    TRACEFS = "tracefs"
    PROC = "proc"
    NONE = "none"


class Claim(NamedTuple):
    """What a patched kernel said of the caller by arguments after the alias.

    `unprivileged`: it named a caller without privilege (grsec_modharden_normalN_), or said
    something that we do not understand. `filesystem` and `netdev`: grsec_modharden_fs and
    grsec_modharden_netdev were there. `capabilities`: the one that the call site declared and the
    caller holds (modharden_capN_), as a mask.
    """

    unprivileged: bool = False
    uid: int | None = None
    filesystem: bool = False
    netdev: bool = False
    capabilities: int = 0


class Request(NamedTuple):
    """One run of the helper: the alias (surrogateescape, untrusted) and the kernel's arguments."""

    alias: str
    kernel_args: tuple[str, ...] = ()
    claim: Claim = Claim()


class Caller(NamedTuple):
    """The task that was in request_module(), as it was while it waited there. None is what nobody could say.

    `uid` is the real one and `euid` the effective one, both in the initial user namespace. `capabilities` is the
    effective mask, which counts only with `initial_user_namespace`; `may_hold` are those that it may hold besides.
    `unit` is systemd's, `executable` a path of the initial mount namespace; None is also a task that has none.
    `behind` are the tasks that a kernel thread may be working for. `tid` is the very thread, `pid` the process that
    it is part of.
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
        """Whether any source could say who this is, or at least what it may do."""
        return self.uid is not None or self.capabilities != 0

    @property
    def seen(self) -> bool:
        """Whether the task was looked at, so that a unit, program or call site that is None is none, not unknown."""
        return self.no_new_privs is not None


UNKNOWN_CALLER = Caller(Source.NONE)


class Marker(NamedTuple):
    """`privileged=…` of a module's .modinfo.

    `written` is what stands there, or why it could not be read, and None where nothing stands;
    `capability` is the one that the module asks for, None where it asks for none.
    """

    written: str | None = None
    capability: Capability | None = None


UNMARKED = Marker()


class CallerQuery(NamedTuple):
    """What the search for a request's callers must know of the policy.

    `sources` are tried in this order. `kernel_args_always`: the policy says that this kernel passes kernel arguments
    about every unprivileged caller. `deputy`: the alias belongs to a deputy's call site, so the kernel's own answer
    does not name the requester. `needs_details`: a rule depends on more of the caller than kernel arguments tell.
    """

    sources: tuple[Source, ...]
    kernel_args_always: bool = False
    deputy: bool = False
    needs_details: bool = False


class Step(NamedTuple):
    """A module that would newly be inserted.

    `needs` names the modules without which the kernel could not resolve its symbols.
    `fd` is open on the very file that was read for the marker, -1 where there is none, and
    `image` on what is to be loaded: the same descriptor, or a sealed copy, decompressed.
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
    """What stands between a target module and its being in the kernel."""

    NEW = "new"
    LIVE = "live"
    BUILT_IN = "builtin"
    BLACKLISTED = "blacklisted"


class Target(NamedTuple):
    """One of the modules that the alias maps to, and the steps towards it, in order.

    `weak` names its weak dependencies, which modprobe(8) leaves to the module itself.
    """

    module: str
    state: TargetState
    steps: tuple[Step, ...] = ()
    weak: tuple[str, ...] = ()


class Plan(NamedTuple):
    """All that would satisfy the alias; no target where nothing answers it."""

    alias: str
    targets: tuple[Target, ...] = ()


class Origin(NamedTuple):
    """The place in the policy that said it; line 0 is a whole file or the built-in policy."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


BUILT_IN = Origin("built-in")
COMMAND_LINE = Origin("safe_modprobe=log on the kernel's command line")


BY_MARKER = "marker"
"""A mark's `privileged = "marker"`."""


class Mark(NamedTuple):
    """The policy's word on modules, over their markers. Empty patterns match anything.

    `capability` None says that no privilege is needed; `by_marker` leaves that to the module's own marker, as
    if no mark were there. `quiet`: a refusal for its sake is not recorded.
    """

    origin: Origin
    modules: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    capability: Capability | None = None
    by_marker: bool = False
    quiet: bool = False
    reason: str = ""


class CallSite(NamedTuple):
    """The capability that suffices for an alias, or that its asker is only a deputy."""

    origin: Origin
    aliases: tuple[str, ...]
    capability: Capability | None = None
    deputy: bool = False
    reason: str = ""


class Rule(NamedTuple):
    """A row that decides by itself. Every key that is not None must match, a list in any member."""

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
    """The switches, each with the value that it has when no file sets it."""

    mode: Mode = Mode.MARKED
    mismatch: Action = Action.DENY
    unknown_caller_privileged: bool = False
    sources: tuple[Source, ...] = (Source.KERNEL_ARGS, Source.BPF, Source.TRACEFS, Source.PROC)
    kernel_args_always: bool = False
    forward_kernel_args: bool = False
    trial: bool = False
    origins: Mapping[str, Origin] = {}

    def origin(self, key: str) -> Origin:
        """Where this key was set."""
        return self.origins.get(key, BUILT_IN)


class Policy(NamedTuple):
    """All files as one, each list in the order of precedence. `files` are names for people."""

    settings: Settings = Settings()
    marks: tuple[Mark, ...] = ()
    call_sites: tuple[CallSite, ...] = ()
    rules: tuple[Rule, ...] = ()
    files: tuple[str, ...] = ()

    def in_trial(self, origin: Origin) -> "Policy":
        """The same, but that nothing is refused, as `origin` says."""
        settings = self.settings
        return self._replace(settings=settings._replace(trial=True, origins={**settings.origins, "trial": origin}))


class StepVerdict(NamedTuple):
    """What was decided about one step; `need` is the capability that it asked of the caller.

    `barred` says what no new rule could change, since it comes first: a rule, the mode, the kernel.
    """

    step: Step
    action: Action
    reason: str
    origin: Origin
    need: Capability | None = None
    quiet: bool = False
    barred: str = ""


class TargetVerdict(NamedTuple):
    """A target with its judged steps; a refused target inserts nothing at all."""

    target: Target
    action: Action
    steps: tuple[StepVerdict, ...] = ()


class Verdict(NamedTuple):
    """The answer to a request: what to do, why, and the place in the policy that said it."""

    action: Action
    reason: str
    origin: Origin
    request: Request
    caller: Caller
    targets: tuple[TargetVerdict, ...] = ()
    quiet: bool = False

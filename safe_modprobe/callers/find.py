"""Who called: each source in the policy's order; the first that can answer, answers.

A source returns None when it cannot say anything, and otherwise the callers who now wait for
this very alias, none of them if nobody does. Each is a full Caller, or an unknown one in doubt.

A patched kernel's words, and its silence, tell of the caller's privilege and of little else. Where a rule depends on
more, the next source that can answer says the rest, and of those whom it finds only who fits the words counts.
"""

import os
import time
from _collections_abc import Callable, Iterable, Mapping

from safe_modprobe.callers import proc, tracefs
from safe_modprobe.callers.kernel_args import UNNAMED_CALLER, claimed_caller, crypto_asks_as_user
from safe_modprobe.callers.nested import inherited_caller, is_privileged, silence_means_root
from safe_modprobe.callers.ring import Event
from safe_modprobe.callers.tasks import read_caller
from safe_modprobe.capability import SYS_MODULE, holds
from safe_modprobe.errors import UntrustedInputError
from safe_modprobe.model import UNKNOWN_CALLER, Caller, CallerQuery, Request, Source
from safe_modprobe.runtime import read

_RETRY_DELAYS_S = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016)
"""Seconds between looks: a requester may still be on its way to sleep when its helper starts."""

_NESTED_LOAD_WAIT_S = 0.5
"""Seconds for a user's load to end; the requester waits for it, and so does a user's module that asks for another."""

_READ_ERRORS = (OSError, ValueError, UntrustedInputError, proc.WalkLimitError)

Found = tuple[Caller, ...] | None

ClaimFilter = Callable[[Caller], tuple[Caller, ...]]
"""What a caller that a source found is taken for; nobody if it cannot be who asked."""


def find_callers(request: Request, query: CallerQuery) -> tuple[Caller, ...]:
    """Everyone who waits for this request's alias now; an unknown caller where nobody can be shown to."""
    by_hand = not proc.started_by_kernel()
    if by_hand and not request.claim.unprivileged:
        # A person or a script ran us: they are the caller, with what power they have.
        return (read_caller("self", Source.PROC),)
    fit: ClaimFilter = _accept_any
    nobody = UNKNOWN_CALLER
    for source in query.sources:
        if source is not Source.KERNEL_ARGS:
            found = _SOURCES[source](request, fit)
            if found is not None:
                return found or (nobody if fit is not _accept_any else nobody._replace(source=source),)
            continue
        said = _from_kernel_args(request, query)
        if said is not None:
            if by_hand or not (query.deputy or query.needs_details):
                return (said,)
            nobody, fit = said, _filter_by_claim(request, said, query.deputy)
    if fit is _accept_any and Source.KERNEL_ARGS in query.sources:
        # Nobody else can say anything, so that root would be refused for a user's load that is soon over.
        return (_from_kernel_args(request, query, _NESTED_LOAD_WAIT_S) or nobody,)
    return (nobody,)


def _accept_any(caller: Caller) -> tuple[Caller, ...]:
    return (caller,)


def _filter_by_claim(request: Request, said: Caller, deputy: bool) -> ClaimFilter:
    """Who asked, with the privilege that the kernel speaks of and the rest of the task that was found.

    A kernel thread may act with another's credentials, as cryptomgr_probe does, and /proc shows its own: no more is
    known of it, unless by those behind it. Where a `deputy` may ask, silence is no privilege, and by /proc alone nobody
    who waits is left out of those that must have it.
    """
    silent = holds(said.capabilities, SYS_MODULE)

    def fit(caller: Caller) -> tuple[Caller, ...]:
        if not caller.known or (caller.kernel_thread and not (silent and not crypto_asks_as_user(request.alias))):
            return tuple(each for behind in caller.working_for for each in fit(behind)) or (said,)
        if silent:
            if caller.kernel_thread or is_privileged(caller):
                return (caller,)
            return (said,) if deputy and caller.source is Source.PROC else ()
        held = caller.capabilities if caller.initial_user_namespace else 0
        if caller.uid != said.uid or holds(held, SYS_MODULE) or said.capabilities & ~held:
            return ()
        return (caller._replace(capabilities=said.capabilities, may_hold=held),)

    return fit


def _apply_filter(callers: Iterable[Caller], fit: ClaimFilter) -> tuple[Caller, ...]:
    return tuple(dict.fromkeys(each for caller in callers for each in fit(caller)))


CALLER_ARGS_SYSCTL = "/proc/sys/kernel/modprobe_caller_args"
"""It cannot be written. 1: this kernel names everybody without CAP_SYS_MODULE, by the rules of packaging/kernel."""


def kernel_names_unprivileged() -> bool:
    """Whether the kernel's silence means CAP_SYS_MODULE. Raises OSError where nobody can say, or none promises."""
    return read(CALLER_ARGS_SYSCTL, 16) == b"1\n"


def resolve_netdev_claim(request: Request) -> Request:
    """The request, with `netdev` as this kernel means it.

    grsecurity refuses a bare interface's name to everybody. The series asks for one only as who has CAP_SYS_MODULE and
    refuses nothing, so there the word is no more than what the name is, and nothing is taken from root.
    """
    if request.claim.netdev and not request.claim.unprivileged:
        try:
            return request._replace(claim=request.claim._replace(netdev=not kernel_names_unprivileged()))
        except OSError:
            pass
    return request


def _from_kernel_args(request: Request, query: CallerQuery, patience: float = 0.0) -> Caller | None:
    """The kernel names who lacks privilege; its silence means root where it promises that, or the policy does.

    grsecurity's grsec_modharden_fs stands in the place of the uid, so there it says nothing of who asked.

    From Linux 6.12 on a module's init does not wait for the self-test of what it registers: cryptomgr_test asks as our
    helper did, perhaps after the load. Where others can look they tell root's own requests from that; with `patience`
    none can, and root would have no cipher for a minute whenever a user gets one.
    """
    if request.claim.unprivileged:
        return claimed_caller(request.claim)
    always = query.kernel_args_always and not request.kernel_args
    try:
        late = proc.has_no_requester() or (not patience and crypto_asks_as_user(request.alias))
        if (always or kernel_names_unprivileged()) and silence_means_root(late, patience):
            return UNNAMED_CALLER
    except _READ_ERRORS:
        pass
    return None


def _from_bpf(request: Request, fit: ClaimFilter) -> Found:
    """The place of the BPF LSM's records; nothing writes them yet."""
    return None


def _from_tracefs(request: Request, fit: ClaimFilter) -> Found:
    """Everyone whose last traced request is for this alias and who is blocked in it.

    A task cannot leave one request and enter another without a newer event. So if it waits in
    call_usermodehelper_exec() before and after its credentials are read, and its last event then is
    still the same, they are the credentials of that request: TIDs that were reused, programs
    executed meanwhile, dead tasks and names are no evidence, and none is used.
    """
    folder = tracefs.active_instance()
    if folder is None:
        return None
    try:
        if proc.has_no_requester():
            return _apply_filter(_nowait_requesters(request, tracefs.read_requests(folder)), fit)
        for pause in _RETRY_DELAYS_S:
            time.sleep(pause)
            seen = tracefs.read_requests(folder)
            found = _blocked_callers(seen, os.fsencode(request.alias))
            if not found:
                continue
            again = tracefs.read_requests(folder).events
            sure = _apply_filter((caller for event, caller in found if again.get(event.tid) == event), fit)
            if sure:
                return sure
        return None if seen.lost else ()
    except _READ_ERRORS:
        return None


def _blocked_callers(seen: tracefs.TracedRequests, name: bytes) -> list[tuple[Event, Caller]]:
    found = []
    for event in seen.events.values():
        if event.name == name and event.wait:
            caller = _read_blocked_caller(event.tid, Source.TRACEFS)
            if caller is None:
                continue
            if caller.kernel_thread:
                caller = caller._replace(working_for=_tasks_waiting_for_deputy(seen, event))
            found.append((event, caller))
    return found


def _read_blocked_caller(tid: int, source: Source) -> Caller | None:
    """The caller of a task that waits in a request both before and after it is read, otherwise None."""
    traced = source is Source.TRACEFS
    try:
        site = proc.blocked_call_site(tid, traced)
        if site is None:
            return None
        caller = read_caller(tid, source, site)
        for_whom = inherited_caller(tid)
    except _READ_ERRORS:
        return None
    if proc.blocked_call_site(tid, traced) != site:
        return None
    if not site and caller.uid != caller.euid:
        # No stack was seen, so that it may wait for something else than a module by now: after a set-user-ID exec that
        # took the TID over, in a request for a key.
        return None
    return caller if for_whom is None else _with_inherited_credentials(for_whom, caller)


def _with_inherited_credentials(for_whom: Caller, loader: Caller) -> Caller:
    """For whom the task loads, asking where and known as the task itself is.

    A kernel's argument that nobody understood stays one.
    """
    kept = loader.source if for_whom.known or for_whom.source is not Source.KERNEL_ARGS else for_whom.source
    return for_whom._replace(source=kept, tid=loader.tid, pid=loader.pid, call_site=loader.call_site)


_LARVAL = "crypto_larval_wait"


def _tasks_waiting_for_deputy(seen: tracefs.TracedRequests, event: Event) -> tuple[Caller, ...]:
    """The tasks for which cryptomgr_probe asks: a `crypto-authenc(hmac(x),y)` before a `crypto-hmac(x)`.

    They asked for the whole name first (crypto/api.c, crypto_larval_lookup()), and sleep in
    crypto_larval_wait() until the kernel thread has put its parts together. The same task's last request
    and its sleep, read before and after, are the evidence.
    """
    part = event.name.removeprefix(b"crypto-").removesuffix(b"-all")
    # A whole part of the name: `authenc` is none of `authencesn(hmac(sha256),cbc(aes))`.
    import re  # a deputy's request alone needs it

    whole = re.compile(rb"^crypto-(?:.*[(,])?" + re.escape(part) + rb"(?:$|[(),])", re.DOTALL)
    found = []
    for other in seen.events.values():
        if other.tid == event.tid or whole.search(other.name.removesuffix(b"-all")) is None:
            continue
        try:
            if not (_sleeps_for_crypto(other.tid) and _started_before(other)):
                continue
            caller = read_caller(other.tid, Source.TRACEFS)
            for_whom = inherited_caller(other.tid)
            if not _sleeps_for_crypto(other.tid):
                continue
        except _READ_ERRORS:
            continue
        if for_whom is not None:  # one of our helpers, whose module's init wants a cipher: not root's wish
            found.append(_with_inherited_credentials(for_whom, caller))
            continue
        # A kernel thread here is a deputy's deputy, whose own waiters asked for a still longer name; and a set-user-ID
        # program may not be what asked.
        if not caller.kernel_thread and caller.uid == caller.euid:
            found.append(caller)
    return tuple(found)


def _started_before(event: Event) -> bool:
    """Whether the task that has the event's TID now is older than the event, by a whole clock tick to be sure."""
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return (proc.stat(event.tid).start + 1) * tick < event.time


def _sleeps_for_crypto(tid: int) -> bool:
    return _LARVAL in proc.kernel_stack(tid, _LARVAL)


def _nowait_requesters(request: Request, seen: tracefs.TracedRequests) -> tuple[Caller, ...]:
    """request_module_nowait(): nobody waits, so only what can never have been a user's task is known.

    A kernel thread does not become another program's, and the ones that started before the event (by a
    whole clock tick, the unit of the start time) are those that asked.
    """
    found = []
    for event in seen.events.values():
        if event.name != os.fsencode(request.alias) or event.wait:
            continue
        try:
            if proc.stat(event.tid).kernel_thread and _started_before(event):
                found.append(read_caller(event.tid, Source.TRACEFS))
        except _READ_ERRORS:
            continue  # an ended task says nothing, and takes nothing away from the others
    return tuple(found)


def _from_proc(request: Request, fit: ClaimFilter) -> Found:
    """Every task that waits in a request now, whatever for: `decide` must allow every one of them.

    A helper without a waiting task means that somebody asked and is gone (SIGKILL): then nobody is known.
    """
    if proc.has_no_requester():
        return ()
    try:
        for look in range(1, proc.ATTEMPTS + 1):
            tids, helpers = proc.blocked_requesters()
            callers = [_read_blocked_caller(tid, Source.PROC) for tid in tids]
            now = proc.count_helpers()
            if callers and now <= helpers <= len(tids):
                # Whoever is gone since may have got its answer: then its helper has ended, too.
                if all(callers) or look == proc.ATTEMPTS:
                    return _apply_filter(
                        (caller or UNKNOWN_CALLER._replace(source=Source.PROC) for caller in callers), fit
                    )
            elif not callers or now == helpers:
                return ()
            time.sleep(proc.RETRY_DELAY_S)
    except _READ_ERRORS:
        pass
    return ()


_SOURCES: Mapping[Source, Callable[[Request, ClaimFilter], Found]] = {
    Source.BPF: _from_bpf,
    Source.TRACEFS: _from_tracefs,
    Source.PROC: _from_proc,
}

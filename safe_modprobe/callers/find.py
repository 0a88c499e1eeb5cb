"""Find the callers of a request: ask the sources in the policy's order; the first that can answer, answers.

A source returns None when it cannot answer. Otherwise it returns the callers that are blocked in a request now, an
empty tuple if there are none. A caller in doubt is returned as an unknown one.

Kernel arguments, and their absence (silence), tell the caller's privilege and little else. Where a rule depends on
more, the next source adds it. Of the callers that this source finds, only those that fit the kernel arguments count.
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
"""Seconds to sleep before each attempt: a requester may not be blocked yet when its helper starts."""

_NESTED_LOAD_WAIT_S = 0.5
"""Seconds to wait for a user's load to end. It is bounded, since the load itself may be waiting for this request."""

_READ_ERRORS = (OSError, ValueError, UntrustedInputError, proc.WalkLimitError)

Found = tuple[Caller, ...] | None

ClaimFilter = Callable[[Caller], tuple[Caller, ...]]
"""Turns a caller that a source found into the callers that count: none if it cannot be the requester."""


def find_callers(request: Request, query: CallerQuery) -> tuple[Caller, ...]:
    """Return all tasks that may have made this request; one unknown caller where no source can show any."""
    run_by_hand = not proc.started_by_kernel()
    if run_by_hand and not request.claim.unprivileged:
        # A person or a script started the helper: this process is the caller, with its own privilege.
        return (read_caller("self", Source.PROC),)
    claim_filter: ClaimFilter = _accept_any
    fallback = UNKNOWN_CALLER
    for source in query.sources:
        if source is not Source.KERNEL_ARGS:
            found = _SOURCES[source](request, claim_filter)
            if found is not None:
                return found or (fallback if claim_filter is not _accept_any else fallback._replace(source=source),)
            continue
        claimed = _from_kernel_args(request, query)
        if claimed is not None:
            if run_by_hand or not (query.deputy or query.needs_details):
                return (claimed,)
            fallback, claim_filter = claimed, _filter_by_claim(request, claimed, query.deputy)
    if claim_filter is _accept_any and Source.KERNEL_ARGS in query.sources:
        # No other source answered. Wait, so that root is not refused because of a user's load that soon ends.
        return (_from_kernel_args(request, query, _NESTED_LOAD_WAIT_S) or fallback,)
    return (fallback,)


def _accept_any(caller: Caller) -> tuple[Caller, ...]:
    return (caller,)


def _filter_by_claim(request: Request, claimed: Caller, deputy: bool) -> ClaimFilter:
    """Return a filter that keeps the tasks that fit the claimed caller, with no more privilege than the kernel claims.

    A kernel thread may act with a user's credentials, as cryptomgr_probe does, but /proc shows its own. So only the
    tasks that it works for add details. Where a `deputy` may have made the request, silence does not prove privilege:
    the source `proc` then replaces an unprivileged task by the claimed caller and does not drop it.
    """
    silence = holds(claimed.capabilities, SYS_MODULE)

    def accept(caller: Caller) -> tuple[Caller, ...]:
        if not caller.known or (caller.kernel_thread and not (silence and not crypto_asks_as_user(request.alias))):
            return tuple(each for behind in caller.working_for for each in accept(behind)) or (claimed,)
        if silence:
            if caller.kernel_thread or is_privileged(caller):
                return (caller,)
            return (claimed,) if deputy and caller.source is Source.PROC else ()
        held = caller.capabilities if caller.initial_user_namespace else 0
        if caller.uid != claimed.uid or holds(held, SYS_MODULE) or claimed.capabilities & ~held:
            return ()
        return (caller._replace(capabilities=claimed.capabilities, may_hold=held),)

    return accept


def _apply_filter(callers: Iterable[Caller], claim_filter: ClaimFilter) -> tuple[Caller, ...]:
    return tuple(dict.fromkeys(each for caller in callers for each in claim_filter(caller)))


CALLER_ARGS_SYSCTL = "/proc/sys/kernel/modprobe_caller_args"
"""Read-only. 1 means that this kernel names each caller without CAP_SYS_MODULE, by the rules of packaging/kernel."""


def kernel_names_unprivileged() -> bool:
    """Return whether the kernel's silence means CAP_SYS_MODULE. Raises OSError where the kernel has no such file."""
    return read(CALLER_ARGS_SYSCTL, 16) == b"1\n"


def resolve_netdev_claim(request: Request) -> Request:
    """Return the request, without the claim `netdev` where this kernel does not refuse a bare interface name by it.

    grsecurity refuses it to every caller. A kernel with the series in packaging/kernel refuses nothing and requests a
    bare name only for a caller with CAP_SYS_MODULE, so root keeps that request.
    """
    if request.claim.netdev and not request.claim.unprivileged:
        try:
            return request._replace(claim=request.claim._replace(netdev=not kernel_names_unprivileged()))
        except OSError:
            pass
    return request


def _from_kernel_args(request: Request, query: CallerQuery, patience: float = 0.0) -> Caller | None:
    """Return the unprivileged caller that the kernel names; the unnamed one where silence means root; otherwise None.

    Silence means root only where this kernel or the policy promises it. grsecurity writes grsec_modharden_fs in the
    place of the uid, so its promise does not cover a request with that argument.

    From Linux 6.12 on a module's init does not wait for the self-test of an algorithm that it registers. cryptomgr_test
    then makes requests with our helper's credentials, perhaps after the load. Other sources can tell those from root's.
    With `patience` (seconds) no other source is left. Silence then counts for these requests too, since otherwise root
    could load no cipher for a minute after a user's load.
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


def _from_bpf(request: Request, claim_filter: ClaimFilter) -> Found:
    """Reserved for the records of a BPF LSM program. Nothing writes them yet."""
    return None


def _from_tracefs(request: Request, claim_filter: ClaimFilter) -> Found:
    """Return the tasks whose last traced request is for this alias and that are blocked in it.

    A task enters a request only with a newer trace event. That is the evidence: the task is blocked in
    call_usermodehelper_exec() before and after its credentials are read, and its last event is the same afterwards. So
    these are the credentials of that request. A reused TID or an executed program proves nothing, because a new task
    would be blocked there only after an event of its own. An ended task or a task's name proves nothing either.
    """
    folder = tracefs.active_instance()
    if folder is None:
        return None
    try:
        if proc.has_no_requester():
            return _apply_filter(_nowait_requesters(request, tracefs.read_requests(folder)), claim_filter)
        for delay in _RETRY_DELAYS_S:
            time.sleep(delay)
            traced = tracefs.read_requests(folder)
            found = _blocked_callers(traced, os.fsencode(request.alias))
            if not found:
                continue
            events_after = tracefs.read_requests(folder).events
            confirmed = _apply_filter(
                (caller for event, caller in found if events_after.get(event.tid) == event), claim_filter
            )
            if confirmed:
                return confirmed
        return None if traced.lost else ()
    except _READ_ERRORS:
        return None


def _blocked_callers(traced: tracefs.TracedRequests, name: bytes) -> list[tuple[Event, Caller]]:
    """Return the tasks that are blocked in a request for this name, each with the trace event of that request."""
    found = []
    for event in traced.events.values():
        if event.name == name and event.wait:
            caller = _read_blocked_caller(event.tid, Source.TRACEFS)
            if caller is None:
                continue
            if caller.kernel_thread:
                caller = caller._replace(working_for=_tasks_waiting_for_deputy(traced, event))
            found.append((event, caller))
    return found


def _read_blocked_caller(tid: int, source: Source) -> Caller | None:
    """Return the caller of a task that is blocked at the same call site before and after it is read, otherwise None."""
    traced = source is Source.TRACEFS
    try:
        site = proc.blocked_call_site(tid, traced)
        if site is None:
            return None
        caller = read_caller(tid, source, site)
        inherited = inherited_caller(tid)
    except _READ_ERRORS:
        return None
    if proc.blocked_call_site(tid, traced) != site:
        return None
    if not site and caller.uid != caller.euid:
        # The stack is hidden, so the task may be waiting for another helper than modprobe, such as request_key(2)'s.
        # A set-user-ID program that took over the TID in execve(2) could do that. Its real and effective uid differ.
        return None
    return caller if inherited is None else _with_inherited_credentials(inherited, caller)


def _with_inherited_credentials(inherited: Caller, loader: Caller) -> Caller:
    """Return the inherited caller, with the source, the thread and the call site of the task that loads for it.

    Malformed kernel arguments keep their source: they refuse even where the policy trusts unknown callers.
    """
    source = loader.source if inherited.known or inherited.source is not Source.KERNEL_ARGS else inherited.source
    return inherited._replace(source=source, tid=loader.tid, pid=loader.pid, call_site=loader.call_site)


_CRYPTO_WAIT_FUNCTION = "crypto_larval_wait"


def _tasks_waiting_for_deputy(traced: tracefs.TracedRequests, event: Event) -> tuple[Caller, ...]:
    """Return the tasks that cryptomgr_probe works for: it requests `crypto-hmac(x)` for a `crypto-authenc(hmac(x),y)`.

    Such a task first requested the whole name (crypto_larval_lookup() in crypto/api.c). Then it sleeps in
    crypto_larval_wait() until the kernel thread has found all parts. The evidence: its last request is for the whole
    name, the task is older than that event, and it sleeps there before and after its credentials are read.
    """
    part = event.name.removeprefix(b"crypto-").removesuffix(b"-all")
    # Match whole parts only: `authenc` is not a part of `authencesn(hmac(sha256),cbc(aes))`.
    import re  # needed only for a deputy's request

    contains_part = re.compile(rb"^crypto-(?:.*[(,])?" + re.escape(part) + rb"(?:$|[(),])", re.DOTALL)
    found = []
    for other in traced.events.values():
        if other.tid == event.tid or contains_part.search(other.name.removesuffix(b"-all")) is None:
            continue
        try:
            if not (_sleeps_for_crypto(other.tid) and _started_before(other)):
                continue
            caller = read_caller(other.tid, Source.TRACEFS)
            inherited = inherited_caller(other.tid)
            if not _sleeps_for_crypto(other.tid):
                continue
        except _READ_ERRORS:
            continue
        if inherited is not None:  # one of our helpers: the init of the module that it loads requested the cipher
            found.append(_with_inherited_credentials(inherited, caller))
            continue
        # A kernel thread here is a deputy itself, and the tasks that it works for requested a still longer name.
        # A set-user-ID program may have replaced the requester.
        if not caller.kernel_thread and caller.uid == caller.euid:
            found.append(caller)
    return tuple(found)


def _started_before(event: Event) -> bool:
    """Return whether the task with the event's TID is older than it by a clock tick (the unit of stat's start time).

    A younger task has reused the TID.
    """
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return (proc.stat(event.tid).start + 1) * tick < event.time


def _sleeps_for_crypto(tid: int) -> bool:
    return _CRYPTO_WAIT_FUNCTION in proc.kernel_stack(tid, _CRYPTO_WAIT_FUNCTION)


def _nowait_requesters(request: Request, traced: tracefs.TracedRequests) -> tuple[Caller, ...]:
    """Return the kernel threads that called request_module_nowait() for this alias.

    No task is blocked in such a request, so a user's task may have ended and its TID may have been reused. A kernel
    thread never becomes a user's program. So one that is older than the event made the request.
    """
    found = []
    for event in traced.events.values():
        if event.name != os.fsencode(request.alias) or event.wait:
            continue
        try:
            if proc.stat(event.tid).kernel_thread and _started_before(event):
                found.append(read_caller(event.tid, Source.TRACEFS))
        except _READ_ERRORS:
            continue  # An ended task proves nothing, and does not affect the others.
    return tuple(found)


def _from_proc(request: Request, claim_filter: ClaimFilter) -> Found:
    """Return every task that is blocked in a request now, for any alias. decide.combine() takes the strictest verdict.

    More helpers than blocked tasks mean that a requester is gone (SIGKILL). Then no caller is known.
    """
    if proc.has_no_requester():
        return ()
    try:
        for attempt in range(1, proc.ATTEMPTS + 1):
            tids, helpers_before = proc.blocked_requesters()
            callers = [_read_blocked_caller(tid, Source.PROC) for tid in tids]
            helpers_after = proc.count_helpers()
            if callers and helpers_after <= helpers_before <= len(tids):
                # A task that is gone may have got its answer. The next attempt shows whether its helper ended, too.
                if all(callers) or attempt == proc.ATTEMPTS:
                    return _apply_filter(
                        (caller or UNKNOWN_CALLER._replace(source=Source.PROC) for caller in callers), claim_filter
                    )
            elif not callers or helpers_after == helpers_before:
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

"""Read the facts that the checks judge, from /proc, /sys, the kernel's build options and the installed files.

All paths are below `top`, so tests can build a machine in a folder. A missing file is a fact too; a file that exists
and cannot be read raises OSError. Nothing is changed.
"""

import gzip
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from safe_modprobe.admin.health.facts import ALL_CAPABILITIES, Facts, Lkrg, Program, Selinux, Setting, Tracing
from safe_modprobe.admin.modules.indexes import built_in_names
from safe_modprobe.admin.policy.globs import is_literal
from safe_modprobe.callers.find import CALLER_ARGS_SYSCTL
from safe_modprobe.callers.proc import parse_stack
from safe_modprobe.callers.tracefs import (
    CLOCK,
    EVENT,
    INSTANCE,
    LOSS_WINDOW_NS,
    MEMORY,
    STOOD_DOWN,
    TRACEFS,
    parse_memory,
)
from safe_modprobe.errors import PolicyError, reason_of
from safe_modprobe.kmod import Kmod
from safe_modprobe.model import COMMAND_LINE, Origin, Policy
from safe_modprobe.modules.plan import modules_folder
from safe_modprobe.policy.accounts import Accounts
from safe_modprobe.policy.builtin import BUILTIN_POLICY
from safe_modprobe.policy.cache import cached_policy
from safe_modprobe.policy.dropins import FOLDERS, TRIAL_FILE
from safe_modprobe.policy.files import check_parser_installed, parse_policy, read_drop_ins
from safe_modprobe.rescue import CMDLINE, LOG, rescue_word
from safe_modprobe.runtime import read

_SYSCTL_FOLDERS = ("/usr/lib/sysctl.d", "/usr/local/lib/sysctl.d", "/run/sysctl.d", "/etc/sysctl.d")
"""Folders of sysctl.d(5), lowest priority first. sysctl(8), and on Debian systemd too, reads /etc/sysctl.conf last."""

_AT_BOOT = "/etc/systemd/system/sysinit.target.wants/safe-modprobe.service"
"""The link that `systemctl enable` creates for the unit's WantedBy=."""

_MAX_SHEBANG = 256  # include/uapi/linux/binfmts.h, BINPRM_BUF_SIZE
_MODPROBE_KEY = re.compile(r"\s*-?\s*kernel[./]modprobe\s*=\s*(.*?)\s*$")
_LOST = re.compile(rb"^(?:overrun|dropped events): (\d+)$", re.MULTILINE)


def read_facts(own: str, code: str, top: str = "", kernel: str | None = None) -> Facts:
    """Return all facts. `own` is the path of the helper and `code` the folder of our code, both relative to `top`.

    Raises OSError when a file exists and cannot be read.
    """
    facts = read_helper_facts(own, code, top, kernel)
    policy, error, policy_digest = _policy(top)
    return facts._replace(
        policy=policy,
        policy_error=error,
        digest=policy_digest,
        tracing=_tracing(top),
        names_unprivileged=_line(f"{top}{CALLER_ARGS_SYSCTL}") == "1",
        stacks=_stacks(top),
        lockdown=_chosen(_line(f"{top}/sys/kernel/security/lockdown")),
        ldisc_autoload={"0": False, "1": True}.get(_line(f"{top}/proc/sys/dev/tty/ldisc_autoload") or ""),
        built_in=_built_in(_modules(top, facts.kernel), policy) if facts.modules_folder else frozenset(),
        loaded=frozenset(line.partition(" ")[0] for line in _lines(f"{top}/proc/modules")),
    )


def read_helper_facts(own: str, code: str, top: str = "", kernel: str | None = None) -> Facts:
    """Return the facts for helper_checks, with the built-in policy. Arguments and errors are those of read_facts()."""
    kernel = kernel or os.uname().release
    current = _line(f"{top}/proc/sys/kernel/modprobe")
    return Facts(
        policy=BUILTIN_POLICY,
        own=own,
        current=current,
        ours=bool(current) and _is_same_file(f"{top}{current}", f"{top}{own}"),
        rescue=rescue_word(f"{top}{CMDLINE}"),
        stood_down=os.path.exists(f"{top}{STOOD_DOWN}"),
        at_boot=os.path.lexists(f"{top}{_AT_BOOT}"),
        kernel=kernel,
        modules_folder=os.path.isdir(_modules(top, kernel)),
        options=_options(top, kernel),
        programs=tuple(_programs(top, own, code)),
        selinux=_selinux(top, own),
        lkrg=_lkrg(top),
        modules_disabled=_line(f"{top}/proc/sys/kernel/modules_disabled") == "1",
        bset=_bset(_line(f"{top}/proc/sys/kernel/usermodehelper/bset")),
        sysctl=_sysctl(top),
    )


def _modules(top: str, kernel: str) -> str:
    return str(modules_folder(top or "/", kernel))


def _bytes(path: str) -> bytes:
    """Return a whole file, b"" for a folder or a missing file. Raises OSError for any other reason."""
    try:
        # runtime.read() makes one large read(2), which a sysctl refuses.
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return b""


def _line(path: str) -> str | None:
    """Return the text of a one-line file, or None without the file."""
    return os.fsdecode(_bytes(path)).removesuffix("\n") if os.path.exists(path) else None


def _lines(path: str) -> list[str]:
    return [line for line in _bytes(path).decode(errors="surrogateescape").split("\n") if line]


def _is_same_file(one: str, other: str) -> bool:
    """Return whether two paths are the same file. /sbin is often a link."""
    try:
        return one == other or os.path.samefile(one, other)
    except OSError:
        return False


def _policy(top: str) -> tuple[Policy, str, str]:
    """Return the policy that a helper would use now, the error of its files ("" without one), and their digest."""
    policy, error, policy_digest = _policy_from_files(top)
    if rescue_word(f"{top}{CMDLINE}") == LOG:
        policy = policy.in_trial(COMMAND_LINE)
    return policy, error, policy_digest


def _policy_from_files(top: str) -> tuple[Policy, str, str]:
    from safe_modprobe.admin.policy.digest import digest  # imports hashlib, which `enable` does not need

    folders = [f"{top}{folder}" for folder in FOLDERS]
    files: list[tuple[str, bytes]] = []
    try:
        files = read_drop_ins(folders)
        check_parser_installed()
        policy = None if top else cached_policy(folders)
        accounts = Accounts(f"{top}/etc/passwd", f"{top}/etc/group")
        return policy or parse_policy(files, accounts), "", digest(files)
    except PolicyError as error:
        trial = os.path.exists(f"{top}{FOLDERS[1]}/{TRIAL_FILE}")
        settings = BUILTIN_POLICY.settings._replace(trial=trial)
        return BUILTIN_POLICY._replace(settings=settings), str(error), digest(files)


def _built_in(folder: str, policy: Policy) -> frozenset[str]:
    """Return built-in modules, only those with a full name in a mark if modules.builtin is missing."""
    with suppress(FileNotFoundError):
        if names := built_in_names(folder):
            return names
    kmod = Kmod(folder, [])
    literal_names = {name for mark in policy.marks for name in mark.modules if is_literal(name)}
    return frozenset(
        name.replace("-", "_") for name in literal_names if kmod.module_from_name(name).initstate == "builtin"
    )


def _options(top: str, kernel: str) -> Mapping[str, str] | None:
    """Return the kernel's build options without the prefix CONFIG_, or None if no file has them."""
    text = gzip.decompress(_bytes(f"{top}/proc/config.gz"))
    if not text:
        paths = (f"/boot/config-{kernel}", f"/lib/modules/{kernel}/config", f"/usr/lib/modules/{kernel}/config")
        text = next(filter(None, (_bytes(f"{top}{path}") for path in paths)), b"")
    pairs = (line.removeprefix("CONFIG_").partition("=") for line in text.decode("ascii", "replace").splitlines())
    return {key: value for key, equals, value in pairs if equals and not key.startswith("#")} or None


def _programs(top: str, own: str, code: str) -> Iterator[Program]:
    helper = _program(top, own)
    yield helper
    first = _bytes(f"{top}{own}")[:_MAX_SHEBANG].partition(b"\n")[0] if helper.there else b""
    if first.startswith(b"#!") and (words := first[2:].partition(b"\0")[0].split()):
        yield _program(top, os.fsdecode(words[0]))
    others = [found for folder, _, names in os.walk(f"{top}{code}") for found in _others(top, folder, names)]
    yield Program(code, os.path.isdir(f"{top}{code}"), others=tuple(dict.fromkeys(others)))


def _program(top: str, path: str) -> Program:
    real = os.path.realpath(f"{top}{path}")
    if not os.path.isfile(real):
        return Program(path, there=False)
    noexec = bool(os.statvfs(real).f_flag & os.ST_NOEXEC)
    others = (*_others(top, f"{top}{path}"), *_others(top, real))
    return Program(path, True, bool(os.stat(real).st_mode & 0o111), noexec, tuple(dict.fromkeys(others)))


def _others(top: str, path: str, names: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield (path, reason) for `path`, `names` in it and all parent folders that a user other than root can change."""
    paths = [os.path.join(path, name) for name in names]
    while len(path) > len(top or "/"):
        paths.append(path)
        path = os.path.dirname(path)
    for each in (*paths, top or "/"):
        if why := _why_changeable(os.lstat(each)):
            yield each.removeprefix(top) or "/", why


def changeable_by_others(path: str) -> list[tuple[str, str]]:
    """Return (path, reason) of everything that decides about `path` and that a user other than root can change.

    That is the path, the files in it if it is a folder, the target of a link, and all parent folders. A missing path
    gives an empty list. Raises OSError.
    """
    if not os.path.exists(path):
        return []
    real = os.path.realpath(path)
    names = os.listdir(real) if os.path.isdir(real) else []
    return list(dict.fromkeys((*_others("", path), *_others("", real, names))))


def _why_changeable(status: os.stat_result) -> str:
    """Return why a user other than root can change the file, or "" if only root can."""
    if status.st_uid != 0:
        return f"it belongs to uid {status.st_uid}"
    mode = status.st_mode
    # The kernel ignores a link's mode. In a sticky folder, users cannot replace files of root.
    if stat.S_ISLNK(mode) or (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
        return ""
    return f"others may write it (mode {stat.S_IMODE(mode):04o})" if mode & 0o022 else ""


def _stacks(top: str) -> bool:
    """Return whether stacks are readable and have symbols: CONFIG_STACKTRACE, CONFIG_KALLSYMS and CAP_SYS_ADMIN."""
    try:
        return bool(parse_stack(_bytes(f"{top}/proc/self/stack")))
    except OSError:
        return False


def _tracing(top: str) -> Tracing:
    mounted = [f"{top}{root}" for root in TRACEFS if os.path.isdir(f"{top}{root}/instances")]
    if not mounted:
        return Tracing(tracefs=False, there=False)
    folder = next((f"{root}/{INSTANCE}" for root in mounted if os.path.isdir(f"{root}/{INSTANCE}")), None)
    if folder is None:
        return Tracing(there=False)
    try:
        event, recording = read(f"{folder}/{EVENT}/enable"), read(f"{folder}/tracing_on")
        clock = read(f"{folder}/trace_clock")
        stats = [read(f"{folder}/per_cpu/{name}/stats") for name in os.listdir(f"{folder}/per_cpu")]
    except OSError as error:
        return Tracing(refused=reason_of(error))
    lost_at = parse_memory(_bytes(f"{top}{MEMORY}"))[1]
    recent = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - LOSS_WINDOW_NS
    return Tracing(
        event=event.startswith(b"1"),
        recording=recording.startswith(b"1"),
        clock=_chosen(clock.decode("ascii", "replace")) == CLOCK,
        lost=sum(int(number) for text in stats for number in _LOST.findall(text)),
        doubt=lost_at > max(recent, 0),
    )


def _chosen(text: str | None) -> str | None:
    """Return the bracketed word: "none [integrity] confidentiality" gives "integrity"."""
    found = re.search(r"\[([^]]+)\]", text or "")
    return found[1] if found else None


def _selinux(top: str, own: str) -> Selinux:
    if _line(f"{top}/sys/fs/selinux/enforce") != "1":
        return Selinux()
    try:
        label = os.getxattr(os.path.realpath(f"{top}{own}"), "security.selinux")
    except OSError:
        return Selinux(True, None)
    return Selinux(True, label.rstrip(b"\0").decode("ascii", "replace"))


def _lkrg(top: str) -> Lkrg | None:
    """Detect LKRG by its sysctls, because it may hide from /proc/modules."""
    if not os.path.isdir(f"{top}/proc/sys/lkrg"):
        return None
    return Lkrg(*(_number(_line(f"{top}/proc/sys/lkrg/{name}")) for name in Lkrg._fields))


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else 0


def _bset(text: str | None) -> int:
    """Parse a capability mask: two decimal words of 32 bits, the lower one first (kernel/umh.c)."""
    words = [_number(word) for word in (text or "").split()]
    return words[0] | words[1] << 32 if len(words) == 2 else ALL_CAPABILITIES


def _sysctl(top: str) -> Setting | None:
    """Return the effective line for kernel.modprobe: the last one in file name order, then in sysctl.conf."""
    by_name: dict[str, str] = {}
    for folder in _SYSCTL_FOLDERS:
        if os.path.isdir(f"{top}{folder}"):
            by_name |= {name: f"{folder}/{name}" for name in os.listdir(f"{top}{folder}") if name.endswith(".conf")}
    found = None
    for path in (*(by_name[name] for name in sorted(by_name)), "/etc/sysctl.conf"):
        for number, line in enumerate(_bytes(f"{top}{path}").decode(errors="surrogateescape").split("\n"), 1):
            if match := _MODPROBE_KEY.match(line):
                found = Setting(Origin(path, number), match[1])
    return found

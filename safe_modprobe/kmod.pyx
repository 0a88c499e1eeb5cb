# cython: language_level=3
"""Python bindings of libkmod, with python-kmod's class and method names and what else the helper needs.

Every call that may block (indexes, files, the kernel) runs without the GIL. A libkmod context is not
thread-safe, so each Kmod has a lock that its modules share. Names are str (surrogateescape), since they may be any
bytes.
"""

import os

cimport cython
from libc.errno cimport ENAMETOOLONG, ENOENT, EPERM
from libc.stdlib cimport free, malloc
from libc.string cimport strlen

from safe_modprobe.libkmod cimport *

KMOD_PROBE_FORCE_VERMAGIC = 0x00001
KMOD_PROBE_FORCE_MODVERSION = 0x00002
KMOD_PROBE_IGNORE_COMMAND = 0x00004
KMOD_PROBE_IGNORE_LOADED = 0x00008
KMOD_PROBE_FAIL_ON_LOADED = 0x00020
KMOD_PROBE_APPLY_BLACKLIST_ALL = 0x10000
KMOD_PROBE_APPLY_BLACKLIST = 0x20000
KMOD_PROBE_APPLY_BLACKLIST_ALIAS_ONLY = 0x40000
KMOD_FILTER_BLACKLIST = 0x00001
KMOD_FILTER_BUILTIN = 0x00002
KMOD_REMOVE_FORCE = os.O_TRUNC
KMOD_REMOVE_NOWAIT = os.O_NONBLOCK

MODULE_INIT_IGNORE_MODVERSIONS = 1
MODULE_INIT_IGNORE_VERMAGIC = 2
MODULE_INIT_COMPRESSED_FILE = 4


class KmodError(OSError):
    """libkmod failed with this `errno`."""


class BlacklistedError(KmodError):
    """The module is blacklisted and a KMOD_PROBE_APPLY_BLACKLIST* flag was given; `errno` is EPERM."""


cdef bytes _bytes(object text):
    """Return a C string. Raises ValueError for an embedded NUL, which would cut it."""
    cdef bytes raw = os.fsencode(text)
    if b"\0" in raw:
        raise ValueError("a name must not hold a NUL byte")
    return raw


cdef bytes _name(object text):
    """Return a C string for libkmod's buffers of PATH_MAX. Raises KmodError for a longer one, ValueError for a NUL.

    libkmod would cut a longer one. For an alias with an open bracket it would overflow a buffer on its stack
    (alias_normalize() in shared/util.c, up to kmod 34 at least).
    """
    cdef bytes raw = _bytes(text)
    if len(raw) >= PATH_MAX:
        raise KmodError(ENAMETOOLONG, f"a name or path of {len(raw)} bytes is longer than libkmod's {PATH_MAX - 1}")
    return raw


cdef const char *_or_null(bytes raw):
    """Return the C string of bytes that the caller keeps alive, NULL for None."""
    if raw is None:
        return NULL
    return raw


cdef object _text(const char *raw):
    return None if raw is NULL else os.fsdecode(raw)


cdef object _error(int err, str what):
    return KmodError(-err, f"{what}: {os.strerror(-err)}")


cdef void _deliver(void *owner, int priority, const char *file, int line, const char *function,
                   const char *message) noexcept with gil:
    inside = <_Inside>owner
    # After an exception the callback is not called any more. The garbage collector may have cleared it.
    if inside.callback is None or inside.error is not None:
        return
    try:
        inside.callback(priority, _text(file), line, _text(function), _text(message).rstrip("\n"))
    except BaseException as error:
        inside.error = error


cdef struct deferred:  # a module to be freed when libkmod is idle
    kmod_module *module
    deferred *next


@cython.final
cdef class _Inside:
    """Let one thread at a time into libkmod, and raise at the end what its log callback raised.

    A Module may end during a call: in another thread, in the garbage collector or in the callback. libkmod still uses
    it then, and waiting would be a deadlock. So the thread that leaves libkmod frees it.
    All fields are read and written under the GIL.
    """

    cdef PyThread_type_lock lock
    cdef unsigned long holder
    cdef deferred *ended
    cdef log log
    cdef object callback
    cdef object error

    def __cinit__(self):
        self.log.owner = <void *>self
        self.lock = PyThread_allocate_lock()
        if self.lock is NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.lock is not NULL:
            PyThread_free_lock(self.lock)

    def __enter__(self):
        cdef int got = PyThread_acquire_lock_timed(self.lock, 0, 0)
        if got != PY_LOCK_ACQUIRED and self.holder == PyThread_get_thread_ident():
            raise RuntimeError("a Kmod cannot be used from within its own call")
        while got != PY_LOCK_ACQUIRED:
            with nogil:
                # The wait has a timeout (0.1 s), because a signal just before it would not interrupt it.
                got = PyThread_acquire_lock_timed(self.lock, 100000, 1)
            if got != PY_LOCK_ACQUIRED:
                PyErr_CheckSignals()
        self.holder = PyThread_get_thread_ident()

    def __exit__(self, *exception):
        error, self.error = self.error, None
        self.leave()
        if error is not None:
            raise error

    cdef void leave(self) noexcept:
        cdef deferred *each
        while self.ended is not NULL:
            each = self.ended
            self.ended = each.next
            self.unref(each.module)
            free(each)
        self.holder = 0
        PyThread_release_lock(self.lock)

    cdef void unref(self, kmod_module *module) noexcept:
        """Drop a reference without logging. The callback could not raise here, and would let other threads run."""
        deliver = self.log.deliver
        self.log.deliver = NULL
        kmod_module_unref(module)
        self.log.deliver = deliver

    cdef void drop(self, kmod_module *module) noexcept:
        """Drop a reference now, or at the end of the current call."""
        cdef deferred *each
        if PyThread_acquire_lock_timed(self.lock, 0, 0) == PY_LOCK_ACQUIRED:
            self.unref(module)
            self.leave()
            return
        each = <deferred *>malloc(sizeof(deferred))
        if each is not NULL:  # without memory the module leaks
            each.module = module
            each.next = self.ended
            self.ended = each


@cython.no_gc_clear  # a Module needs `_inside` when it ends; the collector breaks a cycle at the callback instead
cdef class Kmod:
    """A libkmod context: the modules of one kernel and their configuration.

    `mod_dir` is a folder such as /lib/modules/6.1.0 (default: the running kernel's). `config` is a list of paths
    that replace the usual modprobe.d folders. Raises KmodError, and ValueError for a NUL.
    """

    cdef kmod_ctx *_ctx
    cdef _Inside _inside
    cdef list _config

    def __cinit__(self, mod_dir=None, config=None):
        if isinstance(config, (str, bytes)):
            raise TypeError("config is a list of paths, not one path")
        self._inside = _Inside()
        self._config = None if config is None else [_name(path) for path in config]
        self._open(mod_dir)

    def __dealloc__(self):
        if self._ctx is not NULL:
            self._inside.log.deliver = NULL
            kmod_unref(self._ctx)

    cdef _open(self, mod_dir):
        cdef bytes folder = None if mod_dir is None else _name(mod_dir)
        cdef const char *c_folder = _or_null(folder)
        cdef const char **c_paths = NULL
        cdef kmod_ctx *old = self._ctx
        cdef kmod_ctx *ctx
        if self._config is not None:
            c_paths = <const char **>malloc((len(self._config) + 1) * sizeof(char *))
            if c_paths is NULL:
                raise MemoryError
            for i in range(len(self._config)):
                c_paths[i] = <const char *>(<bytes>self._config[i])
            c_paths[len(self._config)] = NULL
        with nogil:
            ctx = quiet_new(c_folder, <const char * const *>c_paths)
        free(<void *>c_paths)
        set_log(ctx, &self._inside.log)
        if ctx is NULL or kmod_get_dirname(ctx) is NULL:  # before kmod 34, libkmod would crash later without a folder
            kmod_unref(ctx)
            raise KmodError(ENOENT, "libkmod could not create a context; memory or the current folder is missing")
        if old is not NULL:
            kmod_set_log_priority(ctx, kmod_get_log_priority(old))
        self._ctx = ctx
        kmod_unref(old)

    def set_mod_dir(self, mod_dir):
        """Use another folder from now on, with the same `config`. Existing Module objects keep the old one.

        Raises KmodError and ValueError; the folder stays the same then.
        """
        with self._inside:
            self._open(mod_dir)

    @property
    def dirname(self):
        """The folder of the modules."""
        return _text(kmod_get_dirname(self._ctx))

    @property
    def log_priority(self):
        """The syslog(3) priority up to which libkmod logs."""
        return kmod_get_log_priority(self._ctx)

    @log_priority.setter
    def log_priority(self, int priority):
        kmod_set_log_priority(self._ctx, priority)

    def set_log(self, callback):
        """Call callback(priority, file, line, function, message) for each log message of libkmod; None drops them.

        If the callback raises, the call that logged raises the same when it ends. The callback cannot use this Kmod
        (RuntimeError). It gets no messages about modprobe.d, which is read earlier, nor about freed modules.
        """
        self._inside.callback = callback
        self._inside.log.deliver = NULL if callback is None else &_deliver

    def load_resources(self):
        """Keep the indexes open, which speeds up many look-ups. Raises KmodError."""
        cdef int err
        with self._inside, nogil:
            err = kmod_load_resources(self._ctx)
        if err < 0:
            raise _error(err, "the indexes could not be read")

    def unload_resources(self):
        """Close the indexes."""
        with self._inside, nogil:
            kmod_unload_resources(self._ctx)

    def validate_resources(self):
        """Return 0 if indexes and configuration are current, 1 to reload the indexes, 2 to create a new context."""
        cdef int state
        with self._inside, nogil:
            state = kmod_validate_resources(self._ctx)
        return state

    def lookup(self, alias, int flags=0):
        """Return all modules that match an alias or name, which may be none. `flags` are KMOD_FILTER_*.

        Raises KmodError for an invalid alias, and ValueError for a NUL.
        """
        cdef bytes raw = _name(alias)
        cdef const char *c_alias = raw
        cdef kmod_list *found = NULL
        cdef kmod_list *kept = NULL
        cdef int err
        with self._inside:
            with nogil:
                err = kmod_module_new_from_lookup(self._ctx, c_alias, &found)
                if err >= 0 and flags:
                    err = kmod_module_apply_filter(self._ctx, flags, found, &kept)
                    kmod_module_unref_list(found)
                    found = kept
            if err == -ENOENT:
                return []
            if err < 0:
                raise _error(err, "look-up")
            return _modules(self, found)

    def module_from_name(self, name):
        """Return the module of this name, which need not exist. Raises KmodError, ValueError."""
        cdef bytes raw = _name(name)
        cdef const char *c_name = raw
        cdef kmod_module *module = NULL
        cdef int err
        with self._inside:
            with nogil:
                err = kmod_module_new_from_name(self._ctx, c_name, &module)
            if err < 0:
                raise _error(err, "module name")
            return _module(self, module)

    def module_from_path(self, path):
        """Return the module in this file, such as /proc/self/fd/N. Raises KmodError, ValueError."""
        cdef bytes raw = _name(path)
        cdef const char *c_path = raw
        cdef kmod_module *module = NULL
        cdef int err
        with self._inside:
            with nogil:
                err = kmod_module_new_from_path(self._ctx, c_path, &module)
            if err < 0:
                raise _error(err, "module file")
            return _module(self, module)

    def loaded(self):
        """Return the modules in /proc/modules. Raises KmodError."""
        cdef kmod_list *found = NULL
        cdef int err
        with self._inside:
            with nogil:
                err = kmod_module_new_from_loaded(self._ctx, &found)
            if err < 0:
                raise _error(err, "/proc/modules")
            return _modules(self, found)

    def list(self):
        """python-kmod's other name for loaded()."""
        return self.loaded()

    def modprobe(self, name, quiet=False, int flags=0, extra_options=None):
        """Insert all modules that match a name or alias. Raises KmodError, except for no match with `quiet`."""
        modules = self.lookup(name)
        if not modules and not quiet:
            raise KmodError(ENOENT, f"no module matches {ascii(name)}")
        for module in modules:
            module.insert(flags, extra_options)

    def rmmod(self, module_name, int flags=0):
        """Remove a module. Raises KmodError."""
        self.module_from_name(module_name).remove(flags)

    def config(self):
        """Return the lines of modprobe.d and of the kernel command line: {"options": [(module, text)], …}."""
        with self._inside:
            return {
                "blacklists": _config(kmod_config_get_blacklists(self._ctx)),
                "install_commands": _config(kmod_config_get_install_commands(self._ctx)),
                "remove_commands": _config(kmod_config_get_remove_commands(self._ctx)),
                "aliases": _config(kmod_config_get_aliases(self._ctx)),
                "options": _config(kmod_config_get_options(self._ctx)),
                "softdeps": _config(kmod_config_get_softdeps(self._ctx)),
            }


cdef list _config(kmod_config_iter *each):
    """Return [(key, value)] of one kind of line; the value is "" if libkmod has none."""
    cdef list found = []
    if each is NULL:
        raise MemoryError
    try:
        while kmod_config_iter_next(each):
            value = kmod_config_iter_get_value(each)
            found.append((_text(kmod_config_iter_get_key(each)), "" if value is NULL else _text(value)))
    finally:
        kmod_config_iter_free_iter(each)
    return found


cdef Module _module(Kmod kmod, kmod_module *module):
    """Wrap a module and take over its reference, even on failure. The caller holds `_inside`.

    Raises KmodError for a name that is too long for a file. libkmod 30 would put it into a buffer of PATH_MAX together
    with /sys/module/, and write past its end (kmod_module_get_initstate()).
    """
    cdef size_t length = strlen(kmod_module_get_name(module))
    try:
        if length > NAME_MAX:
            raise KmodError(ENAMETOOLONG, f"a module's name of {length} bytes is longer than a file's {NAME_MAX}")
        made = <Module>Module.__new__(Module, _BY_A_KMOD)
    except BaseException:
        kmod_module_unref(module)
        raise
    made._kmod = kmod
    made._module = module
    return made


cdef list _modules(Kmod kmod, kmod_list *found):
    """Wrap the modules of a list and free it, even on failure. The caller holds `_inside`."""
    cdef list made = []
    cdef kmod_list *each = found
    try:
        while each is not NULL:
            made.append(_module(kmod, kmod_module_get_module(each)))
            each = kmod_list_next(found, each)
    finally:
        kmod_module_unref_list(found)
    return made


class Action:
    """An action of the dry run: the module, whether its `install` command would run, and its options."""

    __slots__ = ("install", "module", "options")

    def __init__(self, module, install, options):
        self.module = module
        self.install = install
        self.options = options


cdef object _BY_A_KMOD = object()


@cython.no_gc_clear  # __dealloc__() needs the Kmod
cdef class Module:
    """A module of a Kmod, which it keeps alive."""

    cdef Kmod _kmod
    cdef kmod_module *_module

    def __cinit__(self, made=None):
        if made is not _BY_A_KMOD:
            raise TypeError("only a Kmod can create a Module")

    def __dealloc__(self):
        if self._module is not NULL:
            self._kmod._inside.drop(self._module)

    def __repr__(self):
        return f"<Module {ascii(self.name)}>"

    @property
    def name(self):
        """The name, with underscores."""
        return _text(kmod_module_get_name(self._module))

    @property
    def path(self):
        """The file, None for a module that is built in or does not exist."""
        cdef const char *path
        with self._kmod._inside, nogil:
            path = kmod_module_get_path(self._module)
        return _text(path)

    @property
    def options(self):
        """The options in modprobe.d and on the kernel command line, None without any."""
        with self._kmod._inside:
            return _text(kmod_module_get_options(self._module))

    @property
    def install_command(self):
        """modprobe.d's `install` command, None without one."""
        with self._kmod._inside:
            return _text(kmod_module_get_install_commands(self._module))

    @property
    def remove_command(self):
        """modprobe.d's `remove` command, None without one."""
        with self._kmod._inside:
            return _text(kmod_module_get_remove_commands(self._module))

    @property
    def initstate(self):
        """builtin, live, coming or going; None for a module that is not in the kernel."""
        cdef int state
        with self._kmod._inside, nogil:
            state = kmod_module_get_initstate(self._module)
        return None if state < 0 else _text(kmod_module_initstate_str(state))

    @property
    def refcount(self):
        """The number of its users. Raises KmodError if it is not loaded."""
        cdef int count
        with self._kmod._inside, nogil:
            count = kmod_module_get_refcnt(self._module)
        return _checked(count, "refcount")

    @property
    def size(self):
        """Its size in the kernel, in bytes. Raises KmodError if it is not loaded."""
        cdef long size
        with self._kmod._inside, nogil:
            size = kmod_module_get_size(self._module)
        return _checked(size, "size")

    @property
    def dependencies(self):
        """All modules that must be loaded before it, dependencies of dependencies included (modules.dep)."""
        cdef kmod_list *found
        with self._kmod._inside:
            with nogil:
                found = kmod_module_get_dependencies(self._module)
            return _modules(self._kmod, found)

    @property
    def softdeps(self):
        """(pre, post): the soft dependencies to try before and after it. Raises KmodError."""
        cdef kmod_list *pre = NULL
        cdef kmod_list *post = NULL
        cdef int err
        with self._kmod._inside:
            with nogil:
                err = kmod_module_get_softdeps(self._module, &pre, &post)
            if err < 0:
                raise _error(err, "softdeps")
            try:
                before = _modules(self._kmod, pre)
            except BaseException:
                kmod_module_unref_list(post)
                raise
            return before, _modules(self._kmod, post)

    @property
    def weakdeps(self):
        """The modules that it may request itself, for initramfs tools; empty before libkmod 33. Raises KmodError."""
        cdef kmod_list *found = NULL
        cdef int err
        with self._kmod._inside:
            with nogil:
                err = weakdeps(self._module, &found)
            if err < 0:
                raise _error(err, "weakdeps")
            return _modules(self._kmod, found)

    @property
    def holders(self):
        """The loaded modules that use it."""
        cdef kmod_list *found
        with self._kmod._inside:
            with nogil:
                found = kmod_module_get_holders(self._module)
            return _modules(self._kmod, found)

    @property
    def info(self):
        """[(key, value)] of .modinfo in the file's order, then libkmod's pairs about a signature. Raises KmodError."""
        cdef kmod_list *found = NULL
        cdef int err
        with self._kmod._inside, nogil:
            err = kmod_module_get_info(self._module, &found)
        if err < 0:
            raise _error(err, "modinfo")
        cdef list pairs = []
        cdef kmod_list *each = found
        try:
            while each is not NULL:
                pairs.append((_text(kmod_module_info_get_key(each)), _text(kmod_module_info_get_value(each))))
                each = kmod_list_next(found, each)
        finally:
            kmod_module_info_free_list(found)
        return pairs

    @property
    def versions(self):
        """[(symbol, CRC)] of the symbols that it was built against. Raises KmodError."""
        cdef kmod_list *found = NULL
        cdef int err
        with self._kmod._inside, nogil:
            err = kmod_module_get_versions(self._module, &found)
        if err < 0:
            raise _error(err, "versions")
        cdef list pairs = []
        cdef kmod_list *each = found
        try:
            while each is not NULL:
                pairs.append((_text(kmod_module_version_get_symbol(each)), kmod_module_version_get_crc(each)))
                each = kmod_list_next(found, each)
        finally:
            kmod_module_versions_free_list(found)
        return pairs

    @property
    def symbols(self):
        """[(symbol, CRC)] of the symbols that it exports. Raises KmodError."""
        cdef kmod_list *found = NULL
        cdef int err
        with self._kmod._inside, nogil:
            err = kmod_module_get_symbols(self._module, &found)
        if err < 0:
            raise _error(err, "symbols")
        cdef list pairs = []
        cdef kmod_list *each = found
        try:
            while each is not NULL:
                pairs.append((_text(kmod_module_symbol_get_symbol(each)), kmod_module_symbol_get_crc(each)))
                each = kmod_list_next(found, each)
        finally:
            kmod_module_symbols_free_list(found)
        return pairs

    @property
    def dependency_symbols(self):
        """The symbols that it needs from other modules or the kernel. Raises KmodError."""
        cdef kmod_list *found = NULL
        cdef int err
        with self._kmod._inside, nogil:
            err = kmod_module_get_dependency_symbols(self._module, &found)
        if err < 0:
            raise _error(err, "dependency symbols")
        cdef list names = []
        cdef kmod_list *each = found
        try:
            while each is not NULL:
                names.append(_text(kmod_module_dependency_symbol_get_symbol(each)))
                each = kmod_list_next(found, each)
        finally:
            kmod_module_dependency_symbols_free_list(found)
        return names

    def plan(self, unsigned int flags=0, extra_options=None):
        """Return [Action] in the order of an insertion, from libkmod's own dry run (modprobe -n).

        Live and built-in modules are left out. Raises KmodError, and BlacklistedError under a
        KMOD_PROBE_APPLY_BLACKLIST* flag.
        """
        cdef bytes raw = None if extra_options is None else _bytes(extra_options)
        cdef const char *c_options = _or_null(raw)
        cdef actions found
        cdef int err
        cdef size_t i
        found.each = NULL
        found.count = 0
        found.no_memory = False
        with self._kmod._inside:
            with nogil:
                err = dry_run(self._module, flags, c_options, &found)
            try:
                if err == -ENOENT and found.count:
                    err = 0  # a soft dependency that does not exist
                if err > 0:
                    raise BlacklistedError(EPERM, f"{self.name} is blacklisted")
                if err < 0:
                    raise _error(err, "plan")
                return [
                    Action(
                        _module(self._kmod, kmod_module_ref(found.each[i].module)),
                        bool(found.each[i].install),
                        _text(found.each[i].options).strip(),
                    )
                    for i in range(found.count)
                ]
            finally:
                free_actions(&found)

    def insert(self, unsigned int flags=0, extra_options=None):
        """Insert it as modprobe does, with dependencies and `install` commands. Raises BlacklistedError, KmodError."""
        cdef bytes raw = None if extra_options is None else _bytes(extra_options)
        cdef const char *c_options = _or_null(raw)
        cdef int err
        with self._kmod._inside, nogil:
            err = kmod_module_probe_insert_module(self._module, flags, c_options, NULL, NULL, NULL)
        if err > 0:
            raise BlacklistedError(EPERM, f"{self.name} is blacklisted")
        _checked(err, "insert")

    def remove(self, unsigned int flags=0):
        """Remove it. Raises KmodError."""
        cdef int err
        with self._kmod._inside, nogil:
            err = kmod_module_remove_module(self._module, flags)
        _checked(err, "remove")


cdef object _checked(long result, str what):
    if result < 0:
        raise _error(<int>result, what)
    return result


def finit_module(int fd, params, int flags):
    """Load the module that is open at `fd` by finit_module(2). Raises OSError, and ValueError for a NUL in `params`."""
    cdef bytes raw = _bytes(params)
    cdef const char *c_params = raw
    cdef int err
    with nogil:
        err = do_finit_module(fd, c_params, flags)
    if err:
        raise OSError(err, os.strerror(err))

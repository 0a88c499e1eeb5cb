# The declarations of libkmod.h that kmod.pyx uses, and C code that Cython cannot express.

from libc.stdint cimport uint64_t

cdef extern from "libkmod.h" nogil:
    struct kmod_ctx:
        pass
    struct kmod_list:
        pass
    struct kmod_module:
        pass
    struct kmod_config_iter:
        pass

    kmod_ctx *kmod_unref(kmod_ctx *ctx)
    int kmod_get_log_priority(const kmod_ctx *ctx)
    void kmod_set_log_priority(kmod_ctx *ctx, int priority)
    const char *kmod_get_dirname(const kmod_ctx *ctx)
    int kmod_load_resources(kmod_ctx *ctx)
    void kmod_unload_resources(kmod_ctx *ctx)
    int kmod_validate_resources(kmod_ctx *ctx)

    kmod_list *kmod_list_next(const kmod_list *list, const kmod_list *curr)

    kmod_config_iter *kmod_config_get_blacklists(const kmod_ctx *ctx)
    kmod_config_iter *kmod_config_get_install_commands(const kmod_ctx *ctx)
    kmod_config_iter *kmod_config_get_remove_commands(const kmod_ctx *ctx)
    kmod_config_iter *kmod_config_get_aliases(const kmod_ctx *ctx)
    kmod_config_iter *kmod_config_get_options(const kmod_ctx *ctx)
    kmod_config_iter *kmod_config_get_softdeps(const kmod_ctx *ctx)
    const char *kmod_config_iter_get_key(const kmod_config_iter *iter)
    const char *kmod_config_iter_get_value(const kmod_config_iter *iter)
    bint kmod_config_iter_next(kmod_config_iter *iter)
    void kmod_config_iter_free_iter(kmod_config_iter *iter)

    int kmod_module_new_from_name(kmod_ctx *ctx, const char *name, kmod_module **mod)
    int kmod_module_new_from_path(kmod_ctx *ctx, const char *path, kmod_module **mod)
    int kmod_module_new_from_lookup(kmod_ctx *ctx, const char *alias, kmod_list **list)
    int kmod_module_new_from_loaded(kmod_ctx *ctx, kmod_list **list)
    kmod_module *kmod_module_ref(kmod_module *mod)
    kmod_module *kmod_module_unref(kmod_module *mod)
    int kmod_module_unref_list(kmod_list *list)
    kmod_module *kmod_module_get_module(const kmod_list *entry)

    int kmod_module_remove_module(kmod_module *mod, unsigned int flags)
    int kmod_module_probe_insert_module(
        kmod_module *mod, unsigned int flags, const char *extra_options, void *run_install,
        const void *data, void *print_action)
    int kmod_module_apply_filter(
        const kmod_ctx *ctx, int filter_type, const kmod_list *input, kmod_list **output)

    const char *kmod_module_get_name(const kmod_module *mod)
    const char *kmod_module_get_path(const kmod_module *mod)
    const char *kmod_module_get_options(const kmod_module *mod)
    const char *kmod_module_get_install_commands(const kmod_module *mod)
    const char *kmod_module_get_remove_commands(const kmod_module *mod)
    kmod_list *kmod_module_get_dependencies(const kmod_module *mod)
    int kmod_module_get_softdeps(const kmod_module *mod, kmod_list **pre, kmod_list **post)
    const char *kmod_module_initstate_str(int state)
    int kmod_module_get_initstate(const kmod_module *mod)
    int kmod_module_get_refcnt(const kmod_module *mod)
    kmod_list *kmod_module_get_holders(const kmod_module *mod)
    long kmod_module_get_size(const kmod_module *mod)

    int kmod_module_get_info(const kmod_module *mod, kmod_list **list)
    const char *kmod_module_info_get_key(const kmod_list *entry)
    const char *kmod_module_info_get_value(const kmod_list *entry)
    void kmod_module_info_free_list(kmod_list *list)
    int kmod_module_get_versions(const kmod_module *mod, kmod_list **list)
    const char *kmod_module_version_get_symbol(const kmod_list *entry)
    uint64_t kmod_module_version_get_crc(const kmod_list *entry)
    void kmod_module_versions_free_list(kmod_list *list)
    int kmod_module_get_symbols(const kmod_module *mod, kmod_list **list)
    const char *kmod_module_symbol_get_symbol(const kmod_list *entry)
    uint64_t kmod_module_symbol_get_crc(const kmod_list *entry)
    void kmod_module_symbols_free_list(kmod_list *list)
    int kmod_module_get_dependency_symbols(const kmod_module *mod, kmod_list **list)
    const char *kmod_module_dependency_symbol_get_symbol(const kmod_list *entry)
    void kmod_module_dependency_symbols_free_list(kmod_list *list)

cdef extern from "limits.h":
    enum:
        NAME_MAX
        PATH_MAX

cdef extern from "pythread.h":
    ctypedef void *PyThread_type_lock
    enum:
        PY_LOCK_ACQUIRED
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    int PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int interruptible) nogil
    void PyThread_release_lock(PyThread_type_lock lock)
    unsigned long PyThread_get_thread_ident()

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef extern from *:
    """
    #include <errno.h>
    #include <pthread.h>
    #include <stdarg.h>
    #include <stdbool.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #include <libkmod.h>

    /* libkmod 33 has this function, Debian 12's libkmod 30 lacks it. With a weak symbol one build runs on both. */
    extern int kmod_module_get_weakdeps(const struct kmod_module *, struct kmod_list **)
        __attribute__((weak));

    static int weakdeps(const struct kmod_module *mod, struct kmod_list **list)
    {
        *list = NULL;
        return kmod_module_get_weakdeps ? kmod_module_get_weakdeps(mod, list) : 0;
    }

    /* libkmod passes no user pointer to print_action, so a thread-local variable points to the list. */
    struct action { struct kmod_module *module; char *options; bool install; };
    struct actions { struct action *each; size_t count; bool no_memory; };
    static __thread struct actions *collecting;

    static void collect(struct kmod_module *mod, bool install, const char *options)
    {
        struct action *more =
            realloc(collecting->each, (collecting->count + 1) * sizeof(*more));
        char *copy = strdup(options ? options : "");
        if (more)
            collecting->each = more;
        if (!more || !copy) {
            free(copy);
            collecting->no_memory = true;
            return;
        }
        more[collecting->count++] = (struct action){kmod_module_ref(mod), copy, install};
    }

    static int dry_run(struct kmod_module *mod, unsigned int flags, const char *extra,
                       struct actions *into)
    {
        int err;
        /* The log callback may start a dry run of another context inside this one. */
        struct actions *outer = collecting;
        collecting = into;
        err = kmod_module_probe_insert_module(mod, flags | KMOD_PROBE_DRY_RUN, extra, NULL, NULL,
                                              collect);
        collecting = outer;
        return into->no_memory ? -ENOMEM : err;
    }

    static void free_actions(struct actions *list)
    {
        for (size_t i = 0; i < list->count; i++) {
            kmod_module_unref(list->each[i].module);
            free(list->each[i].options);
        }
        free(list->each);
    }

    /* Format libkmod's messages here, since Cython has no va_list. */
    typedef void (*deliver_fn)(void *, int, const char *, int, const char *, const char *);
    struct log { deliver_fn deliver; void *owner; };

    static void log_message(void *data, int priority, const char *file, int line, const char *fn,
                            const char *format, va_list args)
    {
        struct log *log = data;
        char text[4096];
        if (!log->deliver)
            return;
        vsnprintf(text, sizeof(text), format, args);
        log->deliver(log->owner, priority, file, line, fn, text);
    }

    static void set_log(struct kmod_ctx *ctx, struct log *log)
    {
        kmod_set_log_fn(ctx, log_message, log);
    }

    /* kmod_new() reads modprobe.d and writes its warnings to `stderr` (libkmod.c), before a log function can be set.
       glibc's `stderr` is a variable, so it points to another stream meanwhile. That stream drops what this thread
       writes in kmod_new(), and passes on what other threads write. */
    static __thread bool in_kmod_new;

    static ssize_t write_quiet(void *unused, const char *text, size_t size)
    {
        ssize_t written;
        (void)unused;
        if (in_kmod_new)
            return size;
        written = write(STDERR_FILENO, text, size);
        return written < 0 ? 0 : written;
    }

    static struct kmod_ctx *quiet_new(const char *dirname, const char *const *config_paths)
    {
        static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
        static FILE *quiet, *usual;
        static unsigned int users;
        struct kmod_ctx *ctx;

        pthread_mutex_lock(&mutex);
        if (!quiet && (quiet = fopencookie(NULL, "w", (cookie_io_functions_t){.write = write_quiet})))
            setvbuf(quiet, NULL, _IONBF, 0);
        if (!quiet) {
            pthread_mutex_unlock(&mutex);
            return NULL;
        }
        if (users++ == 0) {
            usual = stderr;
            stderr = quiet;
        }
        pthread_mutex_unlock(&mutex);

        in_kmod_new = true;
        ctx = kmod_new(dirname, config_paths);
        in_kmod_new = false;

        pthread_mutex_lock(&mutex);
        if (--users == 0 && stderr == quiet)
            stderr = usual;
        pthread_mutex_unlock(&mutex);
        return ctx;
    }

    static int do_finit_module(int fd, const char *params, int flags)
    {
        return syscall(SYS_finit_module, fd, params, flags) < 0 ? errno : 0;
    }
    """
    struct action:
        kmod_module *module
        char *options
        bint install
    struct actions:
        action *each
        size_t count
        bint no_memory
    ctypedef void (*deliver_fn)(
        void *, int, const char *, int, const char *, const char *) noexcept
    struct log:
        deliver_fn deliver
        void *owner
    int weakdeps(const kmod_module *mod, kmod_list **list) nogil
    int dry_run(kmod_module *mod, unsigned int flags, const char *extra, actions *into) nogil
    void free_actions(actions *list) nogil
    void set_log(kmod_ctx *ctx, log *log) nogil
    kmod_ctx *quiet_new(const char *dirname, const char * const *config_paths) nogil
    int do_finit_module(int fd, const char *params, int flags) nogil

"""The exceptions of safe-modprobe, whose texts are messages to users and administrators."""


def reason_of(error: Exception) -> str:
    """Return the message of an error, for an OSError without its number and path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class SafeModprobeError(Exception):
    """An error whose text is one sentence for a user or administrator."""


class UsageError(SafeModprobeError):
    """The command line is invalid, or names something that does not exist."""


class PolicyError(SafeModprobeError):
    """A policy file is invalid; the text is `path:line: key: what it was, what it may be`."""


class UntrustedInputError(SafeModprobeError):
    """Input from outside (/proc, the trace, a state file, a module) that is not in its format."""

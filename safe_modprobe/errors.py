"""What can go wrong, one class for each kind of reader's mistake, and how an error is told."""


def reason_of(error: Exception) -> str:
    """What went wrong, without the number and the path of an OSError."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class SafeModprobeError(Exception):
    """An error whose text is one sentence for a person."""


class UsageError(SafeModprobeError):
    """The command line is not one that modprobe(8) or the kernel would write, or names what is not there."""


class PolicyError(SafeModprobeError):
    """A policy file is wrong; the text is `path:line: key: what it was, what it may be`."""


class UntrustedInputError(SafeModprobeError):
    """Bytes from outside (/proc, the trace, a state file) that are not in their format."""

"""What is wrong with a clip's files, and what is wrong with the machine."""

import errno

# What a machine runs out of: no fault of the file that was being read.
OUT_OF_RESOURCES = frozenset(
    {errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR}
)


class ClipError(ValueError):
    """A clip cannot be used, and the fault is in its own files; the message begins with their path."""

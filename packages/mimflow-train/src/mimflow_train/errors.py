"""What can go wrong for a user, and the exit code of each kind."""


class MimflowError(Exception):
    """A problem that the user can solve; its message says what was expected, found, and to do."""

    exit_code = 1


class ConfigError(MimflowError):
    """A bad option or configuration value."""

    exit_code = 2


class DataError(MimflowError):
    """Images that are missing or cannot be read."""

    exit_code = 3


class WeightsError(MimflowError):
    """Pretrained weights that are not on this machine."""

    exit_code = 4


class DivergedError(MimflowError):
    """A loss or gradient that is no longer finite.

    Args:
        message: The problem.
        step: Where it was met.
    """

    exit_code = 5

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step

    def __reduce__(self) -> tuple[type["DivergedError"], tuple[str, int]]:
        return DivergedError, (str(self), self.step)  # Ray sends it between processes


class StorageError(MimflowError):
    """A checkpoint that cannot be written or read."""

    exit_code = 6


class RetriesError(MimflowError):
    """Workers that kept failing."""

    exit_code = 7


class PeerError(Exception):
    """The end of another worker, which has the reason and says it."""


class WorkerError(MimflowError):
    """A user's mistake that a worker met, with the exit code it has there."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type["WorkerError"], tuple[str, int]]:
        return WorkerError, (str(self), self.exit_code)


def remedy(error: Exception) -> str:
    """Return what to do about a file that could not be written.

    Example:
        >>> remedy(OSError(28, "No space left on device"))
        'Free some space.'
    """
    text = str(error).lower()
    if "no space" in text or "quota" in text:
        return "Free some space."
    return "Check that it may be written to, or choose another place."

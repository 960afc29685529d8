"""Files of which a reader sees the old content or the whole new one. Imports no torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from genmetrics.errors import UsageError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a draft beside a file, which takes its place if the block ends without an error.

    The draft of a block that fails is deleted.

    Args:
        path: The file.

    Raises:
        UsageError: If it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_whole(Path(folder, "a.txt")) as draft:
        ...         _ = draft.write_text("all of it")
        ...     Path(folder, "a.txt").read_text(), draft.exists()
        ('all of it', False)
    """
    draft = path.with_name(f".{path.name}.partial")
    try:
        yield draft
        with draft.open("rb") as stream:
            os.fsync(stream.fileno())  # or a power cut could leave the file empty
        draft.replace(path)
    except OSError as error:
        raise UsageError(f"Expected a writable file; got {error}. Choose another path.") from error
    finally:
        with suppress(OSError):
            draft.unlink()

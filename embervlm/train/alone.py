"""One training at a time writes to a folder; what a killed one left half-written there is cleared before."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from embervlm.errors import UserError
from embervlm.train.checkpoint import clean_up

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""Some network file systems have none: there one trains unguarded."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Of several processes of one run the first sees to it.

    Raises:
        UserError: another training writes there.
    """
    if int(os.environ.get("RANK", "0")):
        yield
        return
    made = [path for path in (folder, folder.parent) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder):
            clean_up(folder)
            for before in folder.parent.glob("stage[0-9]"):  # whose checkpoint-final this one may begin with
                if before != folder:
                    # It may belong to another training at this moment, or be somebody's who only lets us read.
                    with suppress(UserError, OSError), _locked(before):
                        clean_up(before)
            yield
    finally:
        for path in made:
            with suppress(OSError):  # something is in it
                path.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"Another training writes to {folder} at this moment; wait for its end, or choose another --output_dir."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()

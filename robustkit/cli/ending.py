"""How commands end."""

import contextlib
import errno
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import click

from robustkit.errors import BadInput

__all__ = ["reporting_errors"]


@contextlib.contextmanager
def reporting_errors(folder: Callable[[], Path | None]) -> Iterator[None]:
    """Every end of a command as one message and an exit code."""

    def kept(mended: str = "") -> str:
        place = folder()
        # What comes before is the place alone.
        if not (place and (place / "run.json").exists()):
            return ""
        from robustkit.evaluation.store import SHARDS

        shards = place / SHARDS
        goes_on = shards.is_dir()
        if mended and goes_on and not any(shards.glob("*.shard")):
            # Nothing is lost by beginning anew, once it is.
            return ""
        way = f"; {mended}to go on: robustkit eval --resume {place}" if goes_on else ""
        return f"; what was finished is in {place}{way}"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def full(error: Exception) -> NoReturn:
        click.echo(f"error: the disk is full ({error}){kept()}", err=True)
        sys.exit(1)

    def unexpected(error: Exception) -> NoReturn:
        import traceback

        from robustkit.evaluation.shards import write_atomically

        place = folder()
        where = ""
        if place and place.exists():
            with contextlib.suppress(OSError):
                with write_atomically(place / "error.txt") as file:
                    trace = traceback.format_exc()
                    file.write(trace.encode("utf-8", "backslashreplace"))
                where = f"; the full trace is in {place / 'error.txt'}"
        click.echo(
            f"unexpected error: {type(error).__name__}: {error}{kept()}{where}",
            err=True,
        )
        if not where:
            click.echo(traceback.format_exc(), err=True)
        sys.exit(1)

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: click.echo(
                f"warning: {message}", err=True
            )
            yield
    except BadInput as error:
        if _is_full(error.__cause__):
            full(error)
        click.echo(f"error: {error}{kept('once that is mended, ')}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo(f"interrupted{kept()}", err=True)
        sys.exit(130)
    except (click.ClickException, click.exceptions.Exit):
        raise
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            mend = kept("once that is mended, ")
            click.echo(f"error: no permission ({error}){mend}", err=True)
            sys.exit(2)
        if not _is_full(error):
            unexpected(error)
        full(error)
    except Exception as error:
        unexpected(error)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _is_full(error: BaseException | None) -> bool:
    """Whether an error says that a disk has no room left."""
    numbers = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
    return isinstance(error, OSError) and error.errno in numbers

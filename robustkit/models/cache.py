"""Answers on disk, so that what was paid for once is not paid for again."""

import json
import sqlite3
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustkit.errors import BadInput

__all__ = ["AnswerCache"]

# So many placeholders fit into one question to any build of SQLite.
_AT_ONCE = 500


class AnswerCache:
    """JSON answers by key in one SQLite file; several runs may share it.

    What `store` was given is on disk when it returns, all of it or nothing, also if the
    process is killed.

    Args:
        path: Of the file; made, with its parents, if it is not there.

    Raises:
        BadInput: It cannot be used; or no more, such as on a full disk.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._usable():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self.path, timeout=60)
            weakref.finalize(self, self._base.close)
            self._base.execute("PRAGMA journal_mode=WAL")
            with self._base:
                self._base.execute(
                    "CREATE TABLE IF NOT EXISTS answers "
                    "(key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID"
                )

    def find(self, keys: Sequence[str]) -> dict[str, Any]:
        """The answers that are known, by key."""
        found: dict[str, Any] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(some))
            with self._usable():
                rows = self._base.execute(
                    f"SELECT key, answer FROM answers WHERE key IN ({marks})", some
                ).fetchall()
            found |= {key: json.loads(answer) for key, answer in rows}
        return found

    def store(self, answers: Mapping[str, Any]) -> None:
        """Keep answers by key."""
        with self._usable(), self._base:
            self._base.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?)",
                [(key, json.dumps(answer)) for key, answer in answers.items()],
            )

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Let what the file or its disk refuses be no failure of the model's."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise BadInput(
                f"cannot use '{self.path}' as a cache of answers ({error}); see that "
                "there is room on its disk and that nothing else holds it, or name "
                "another file"
            ) from error

"""Answers on disk, so that what was paid for once is not paid for again."""

import json
import sqlite3
import weakref
from collections.abc import Mapping, Sequence
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
        BadInput: It cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self.path, timeout=60)
            weakref.finalize(self, self._base.close)
            self._base.execute("PRAGMA journal_mode=WAL")
            with self._base:
                self._base.execute(
                    "CREATE TABLE IF NOT EXISTS answers "
                    "(key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID"
                )
        except (OSError, sqlite3.Error) as error:
            raise BadInput(
                f"cannot use '{path}' as a cache of answers ({error}); name another "
                "file, or remove it"
            ) from error

    def find(self, keys: Sequence[str]) -> dict[str, Any]:
        """The answers that are known, by key."""
        found: dict[str, Any] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(some))
            rows = self._base.execute(
                f"SELECT key, answer FROM answers WHERE key IN ({marks})", some
            )
            found |= {key: json.loads(answer) for key, answer in rows}
        return found

    def store(self, answers: Mapping[str, Any]) -> None:
        """Keep answers by key."""
        with self._base:
            self._base.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?)",
                [(key, json.dumps(answer)) for key, answer in answers.items()],
            )

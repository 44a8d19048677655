"""JSON over HTTP with patience: time-outs, retries with back-off, a limited rate."""

import email.utils
import http.client
import json
import math
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from robustkit.arguments import as_number, as_whole
from robustkit.errors import BadInput

__all__ = ["Client", "Unreachable"]

# Answers that may be another one next time.
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_EXCERPT = 300
# RFC 9110, section 5: of a header.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Unreachable(BadInput):
    """A remote model does not answer, however often it is asked."""


@dataclass
class Client:
    """Posts JSON to one address and keeps the connection.

    Args:
        url: http:// or https://.
        headers: Sent with each request, such as an API's key.
        rate: The most requests per second; None: no limit.
        timeout: Seconds to wait for the server at a time.
        retries: How often a request is sent again before giving up.
        pause: Seconds before the first repetition, twice as many before the next, and
            so on, unless the server says how long to wait.
        longest: Of such a pause, in seconds; a server that asks for more is given up.

    Attributes:
        requests: How many have been sent, repetitions included.
        place: The address without its query, which may hold a key.

    Raises:
        BadInput: Not such an address, or a setting is out of range.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    rate: float | None = None
    timeout: float = 30.0
    retries: int = 5
    pause: float = 0.5
    longest: float = 60.0
    requests: int = field(default=0, init=False)
    place: str = field(default="", init=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            # What only shows when a connection is opened, and a request sent.
            _, host = parts.port, (parts.hostname or "").encode("idna")
            sent = parts.path + parts.query
            if parts.scheme not in ("http", "https") or not host:
                raise ValueError("it is of something else")
            if not (sent.isascii() and sent.isprintable()) or " " in sent:
                raise ValueError("it cannot be sent as it is")
        except ValueError:
            # Not repeated here, nor what raised, since the address may hold a key.
            raise BadInput(
                "expected an address such as https://example.org/predict, its port up "
                "to 65535 and other letters in its path and query as %XX"
            ) from None
        if "@" in parts.netloc:
            # Not repeated here, since it may be a key.
            raise BadInput(
                f"the address of {parts.hostname} holds a name or a password, which "
                "run.json would keep; send it in a header, with its value from the "
                "environment: --header 'Authorization=Basic ENV:API_KEY'"
            )
        _check_headers(self.headers)
        self.headers = dict(self.headers)
        if self.rate is not None:
            self.rate = as_number(self.rate, "the rate", above=0)
        self.timeout = as_number(self.timeout, "the time-out", above=0)
        self.retries = as_whole(self.retries, "the number of retries", least=0)
        self.pause = as_number(self.pause, "the pause", least=0)
        if self.longest != math.inf:
            self.longest = as_number(self.longest, "the longest pause", least=0)
        self._parts, self.place = parts, self.url.partition("?")[0]
        self._connection: http.client.HTTPConnection | None = None
        self._next = 0.0

    def post(self, content: Any) -> Any:
        """The JSON that the server answers.

        Raises:
            Unreachable: No answer after all repetitions.
            BadInput: The server refuses the request, or does not answer with JSON.
        """
        body = json.dumps(content, allow_nan=False).encode()
        trouble = ""
        for attempt in range(self.retries + 1):
            self._wait_for_turn()
            try:
                status, headers, answer = self._send(body)
            except (OSError, http.client.HTTPException) as error:
                # The connection is of no more use, whatever happened to it.
                self.close()
                trouble = f"{type(error).__name__}: {error}".rstrip(": ")
                asked = None
            else:
                if status == 200:
                    return self._read(answer)
                trouble = f"status {status}: {_excerpt(answer)}"
                if status not in _AGAIN:
                    if "Location" in headers:
                        moved = headers["Location"].partition("?")[0]
                        trouble += f"; it moved to {moved}"
                    raise BadInput(f"{self.place} refuses the request with {trouble}")
                asked = _seconds(headers.get("Retry-After"))
            if attempt == self.retries:
                break
            wait = (
                min(self.pause * 2**attempt, self.longest) if asked is None else asked
            )
            if wait > self.longest:
                trouble += f"; it asks to wait {wait:.0f} s"
                break
            time.sleep(wait)
        raise Unreachable(
            f"{self.place} gave no answer to a request sent {attempt + 1} times; last "
            f"{trouble}"
        )

    def close(self) -> None:
        """Let go of the connection; the next request opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _wait_for_turn(self) -> None:
        if self.rate is None:
            return
        now = time.monotonic()
        if now < self._next:
            time.sleep(self._next - now)
        self._next = max(now, self._next) + 1 / self.rate

    def _send(self, body: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
        if self._connection is None:
            self._connection = self._opened()
        target = self._parts.path or "/"
        if self._parts.query:
            target += f"?{self._parts.query}"
        self.requests += 1
        headers = {"Content-Type": "application/json", **self.headers}
        self._connection.request("POST", target, body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.will_close:
            self.close()
        return answer.status, answer.headers, content

    def _opened(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self.timeout)
        return http.client.HTTPSConnection(
            host, port, timeout=self.timeout, context=ssl.create_default_context()
        )

    def _read(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise BadInput(
                f"{self.place} did not answer with JSON ({error}): {_excerpt(answer)}"
            ) from error


def _check_headers(headers: Mapping[str, str]) -> None:
    """Whether all can be sent, before http.client says no and repeats their values."""
    if not isinstance(headers, Mapping):
        raise BadInput(
            "headers must be a mapping from names to values, such as "
            f"{{'Authorization': 'Bearer …'}}; got a {type(headers).__name__}"
        )
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadInput(f"no header can be called {name!r}")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            # Not repeated here, since it may be a key.
            raise BadInput(
                f"the value of the header '{name}' must be a text of one line, in "
                "Latin letters; what was read from a file often ends in a line break"
            )


def _excerpt(answer: bytes) -> str:
    return " ".join(answer.decode("utf-8", "replace").split())[:_EXCERPT]


def _seconds(retry_after: str | None) -> float | None:
    """What the header Retry-After says, in seconds from now; None: nothing usable."""
    if retry_after is None:
        return None
    try:
        value = float(retry_after)
    except ValueError:
        try:
            until = email.utils.parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        value = (until - datetime.now(UTC)).total_seconds()
    return max(value, 0.0) if math.isfinite(value) else None

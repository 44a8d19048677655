"""Models behind an address: JSON over HTTP(S)."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.arguments import as_whole
from robustkit.errors import BadInput
from robustkit.models.base import Access, Model, as_access
from robustkit.models.cache import AnswerCache
from robustkit.models.encodings import Encoding, Numbers
from robustkit.models.http import Client
from robustkit.models.labels import Classes
from robustkit.numerics.bounds import BoundsLike, as_bounds
from robustkit.numerics.tensors import Array, Batch, Tensor, as_tensor, like, to_numpy

__all__ = ["RemoteModel", "Template", "filled_address", "filled_headers"]

_INPUTS, _INPUT = "{inputs}", "{input}"
# Where an answer may stand that follows the documented format.
_KINDS = ("scores", "labels", "top")
# Where a header's value holds that of a variable of the environment.
_VARIABLE = re.compile(r"ENV:([A-Za-z_][A-Za-z0-9_]*)")
# Names in an address's query that may be followed by a key.
_SECRET = re.compile(
    r"[?&][^=&]*(?:key|token|secret|passw|auth|sig)[^=&]*=([^&#]*)", re.IGNORECASE
)
_DIGITS = 20
# In place of an input, for the cache.
_CLASSES = "classes"


def filled_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers with the environment's values in place of `ENV:VARIABLE`.

    Raises:
        BadInput: A value holds no such place, and so may be a key itself, which would
            be written down; or there is no such variable.

    >>> os.environ["API_KEY"] = "secret"
    >>> filled_headers({"Authorization": "Bearer ENV:API_KEY"})
    {'Authorization': 'Bearer secret'}
    """
    for name, value in headers.items():
        if not _VARIABLE.search(value):
            raise BadInput(
                f"the value of the header '{name}' must come from the environment, "
                "since run.json keeps what was given: write ENV: and the name of a "
                f"variable, such as '{name}=Bearer ENV:API_KEY'"
            )
    return {
        name: _from_environment(value, f"the header '{name}'")
        for name, value in headers.items()
    }


def filled_address(url: str) -> str:
    """An address with the environment's values in place of `ENV:VARIABLE`.

    Raises:
        BadInput: A value by a name such as `api_key` holds no such place, and so may be
            a key itself, which would be written down; or there is no such variable.

    >>> os.environ["API_KEY"] = "secret"
    >>> filled_address("https://example.org/predict?version=2&key=ENV:API_KEY")
    'https://example.org/predict?version=2&key=secret'
    """
    if not all(_VARIABLE.search(value) for value in _SECRET.findall(url)):
        raise BadInput(
            f"a key in the query of {url.partition('?')[0]} must come from the "
            "environment, since run.json keeps what was given: write ENV: and the name "
            "of a variable in its place, such as '?key=ENV:API_KEY'"
        )
    return _from_environment(url, "the address")


def _from_environment(text: str, whose: str) -> str:
    """Text with the environment's values in place of `ENV:VARIABLE`."""
    for variable in _VARIABLE.findall(text):
        if not os.environ.get(variable):
            raise BadInput(
                f"{whose} needs the environment variable {variable}, which is not set"
            )
    return _VARIABLE.sub(lambda match: os.environ[match[1]], text)


@dataclass(frozen=True)
class Template:
    """What a request looks like, and where its answers are.

    Args:
        request: JSON, somewhere in it the text "{inputs}" for the list of encoded
            inputs; or "{input}" for one, and then each request asks about one input.
        answers: Where the list of answers is in the response, or with "{input}" the
            one answer: names and numbers with dots between them, such as
            "predictions.0.classes"; "" for the response itself. None: the documented
            format, `scores`, `labels` or `top`.
        label: What the label is called in answers that are lists of objects.
        score: What the score is called there.

    Raises:
        BadInput: The request has no place for inputs.
    """

    request: Any = dataclasses.field(default_factory=lambda: {"inputs": _INPUTS})
    answers: str | None = None
    label: str = "label"
    score: str = "score"

    def __post_init__(self) -> None:
        text = json.dumps(self.request)
        if (json.dumps(_INPUTS) in text) == (json.dumps(_INPUT) in text):
            raise BadInput(
                "a request needs either '{inputs}' or '{input}' where the inputs shall "
                f"stand; got {text}"
            )

    @property
    def single(self) -> bool:
        """Whether each request asks about one input."""
        return json.dumps(_INPUT) in json.dumps(self.request)

    def fill(self, encoded: list[Any]) -> Any:
        """The request about some encoded inputs."""
        return _filled(self.request, encoded)

    def read(self, response: Any, count: int) -> list[Any]:
        """One answer for each of `count` inputs.

        Raises:
            BadInput: They are not where they should be.
        """
        found = self._found(response)
        # In the documented format one answer comes in a list, too.
        listed = self.answers is None and isinstance(found, list)
        answers = [found] if self.single and not listed else found
        if not isinstance(answers, list) or len(answers) != count:
            came = f"{len(answers)} answers" if isinstance(answers, list) else "no list"
            raise BadInput(
                f"expected a list of {count} answers, one for each input; the response "
                f"has {came} there: {_excerpt(response)}"
            )
        return [self._renamed(answer) for answer in answers]

    def _found(self, response: Any) -> Any:
        if self.answers is None:
            kinds = [
                kind
                for kind in _KINDS
                if isinstance(response, Mapping) and kind in response
            ]
            if len(kinds) != 1:
                raise BadInput(
                    f"expected a response with one of {', '.join(_KINDS)}; got "
                    f"{_excerpt(response)}"
                )
            return response[kinds[0]]
        found = response
        for part in self.answers.split(".") if self.answers else ():
            try:
                found = found[int(part) if isinstance(found, list) else part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise BadInput(
                    f"the response has no '{part}' on the way to '{self.answers}': "
                    f"{_excerpt(response)}"
                ) from None
        return found

    def _renamed(self, answer: Any) -> Any:
        """An answer with the names `label` and `score` in place of the API's own."""
        if isinstance(answer, dict) and self.label in answer:
            if self.score not in answer:
                return answer[self.label]
            answer = [answer]
        if not isinstance(answer, list) or not all(
            isinstance(entry, dict) and self.label in entry for entry in answer
        ):
            return answer
        return [
            {"label": entry[self.label], "score": entry.get(self.score)}
            for entry in answer
        ]


class RemoteModel(Model):
    """A model that is asked over the network.

    See docs/how-to/attack-a-remote-model.md for the format of requests and responses.

    Args:
        url: http:// or https://, where requests are posted.
        bounds: Of valid inputs, in input units.
        classes: Their names in order, or how many. None: as many as the response shows
            scores, or as it says itself under "classes". See `LabelModel` for what
            scores classes get that are not shown.
        access: What answers show: labels alone are decisions, anything else scores.
        template: Of requests and responses; None: the documented format.
        encoding: How inputs are sent. What it rounds away is not there for attacks
            either: distances are those of what was sent (`Model.shown`).
        batch_size: The most inputs per request.
        cache: File that keeps every answer, by address, request and input, so that a
            run that was cut off asks nothing twice. None: none. Not for models whose
            answers are random or that change meanwhile.
        headers: Sent with each request, such as an API's key. Never written anywhere.
        rate: The most requests per second; None: no limit.
        timeout: Seconds to wait for the server at a time.
        retries: How often a request is repeated before the run is given up: after a
            broken connection, a time-out, or a status that says "later".
        pause: Seconds before the first repetition, twice as many before the next, and
            so on; where the server says how long to wait, that long.
        longest: Of such a pause, in seconds.
        name: For people.

    Attributes:
        inputs_sent: How many inputs have been sent, without those out of the cache.

    Raises:
        BadInput: A setting is out of range.
    """

    def __init__(
        self,
        url: str,
        bounds: BoundsLike | None = None,
        *,
        classes: Sequence[str] | int | None = None,
        access: Access | str = Access.SCORE,
        template: Template | None = None,
        encoding: Encoding | None = None,
        batch_size: int = 32,
        cache: str | Path | None = None,
        headers: Mapping[str, str] | None = None,
        rate: float | None = None,
        timeout: float = 30.0,
        retries: int = 5,
        pause: float = 0.5,
        longest: float = 60.0,
        name: str | None = None,
    ) -> None:
        batch_size = as_whole(batch_size, "the batch size", least=1)
        access = as_access(access)
        if access > Access.SCORE:
            raise BadInput("a remote model shows decisions or scores, no gradients")
        self.bounds, self.access = as_bounds(bounds), access
        # A query may hold a key.
        self.name = name or url.partition("?")[0]
        self.inputs_sent = 0
        self._classes = None if classes is None else _checked(classes, self.name)
        self._template = Template() if template is None else template
        if not isinstance(self._template, Template):
            raise BadInput(f"the template must be a Template; got {template!r}")
        self._encoding = Numbers() if encoding is None else encoding
        if not hasattr(self._encoding, "shown"):
            raise BadInput(
                "the encoding must be an object such as Picture('png') or Numbers(); "
                f"got {encoding!r}"
            )
        self._size = 1 if self._template.single else batch_size
        self._cache = None if cache is None else AnswerCache(cache)
        self._client = Client(
            url, headers or {}, rate, timeout, retries, pause, longest
        )
        self._open, self._others = False, 0

    @property
    def requests_sent(self) -> int:
        """How many requests have been sent, repetitions included."""
        return self._client.requests

    @property
    def unlabelled(self) -> int:
        """Known once it has answered: where all scores are shown there are none."""
        return self._others

    def shown(self, x: Batch) -> Batch:
        values = to_numpy(x)
        seen = self._encoding.shown(values, self.bounds)
        return x if seen is values else like(x, seen)

    def logits(self, x: Batch) -> Tensor:
        values = to_numpy(self.shown(x))
        with self.session():
            answers = self._answers(
                [self._encoding.encode(row, self.bounds) for row in values]
            )
        scores = [self._scores(answer) for answer in answers]
        self.one_class = not any(isinstance(answer, list | dict) for answer in answers)
        if len({len(row) for row in scores}) > 1:
            raise BadInput(f"{self.name} answers with different numbers of scores")
        return as_tensor(np.stack(scores).astype(values.dtype))

    def to_tensor(self, x: Array) -> Batch:
        return as_tensor(np.array(x, order="C"))

    def session(self) -> AbstractContextManager[None]:
        return nullcontext() if self._open else self._connected()

    def look(self, x: Array) -> None:
        """Learn from the answer about one input (1, ...) what answers show.

        Raises:
            BadInput: There is no answer, or it says too little of the classes.
        """
        encoded = self._encoding.encode(
            to_numpy(self.shown(as_tensor(x)))[0], self.bounds
        )
        with self.session():
            (answer,) = self._answers([encoded])
        is_label = isinstance(answer, str | int)
        self.access = Access.DECISION if is_label else Access.SCORE

    @contextmanager
    def _connected(self) -> Iterator[None]:
        self._open = True
        try:
            yield
        finally:
            self._open = False
            self._client.close()

    def _answers(self, encoded: list[Any]) -> list[Any]:
        """One answer for each encoded input, from the cache or from the server."""
        if self._cache is None:
            chunks = (
                encoded[start : start + self._size]
                for start in range(0, len(encoded), self._size)
            )
            return [answer for chunk in chunks for answer in self._asked(chunk)]
        keys = [self._key(value) for value in encoded]
        known = self._cache.find(list(dict.fromkeys(keys)))
        missing = {k: v for k, v in zip(keys, encoded, strict=True) if k not in known}
        waiting = list(missing)
        for start in range(0, len(waiting), self._size):
            chunk = waiting[start : start + self._size]
            answers = self._asked([missing[key] for key in chunk])
            fresh = dict(zip(chunk, answers, strict=True))
            # Before anything else is asked, so that a killed run keeps them.
            self._cache.store(fresh)
            known |= fresh
        return [known[key] for key in keys]

    def _asked(self, encoded: list[Any]) -> list[Any]:
        """Answers of the server, each of which stands for scores."""
        self.inputs_sent += len(encoded)
        response = self._client.post(self._template.fill(encoded))
        if self._classes is None and isinstance(response, dict):
            said = response.get("classes")
            if said is not None:
                self._classes = _checked(said, self.name)
                if self._cache is not None:
                    self._cache.store({self._key(_CLASSES): self._classes})
        answers = self._template.read(response, len(encoded))
        for answer in answers:
            self._scores(answer)
        return answers

    def _scores(self, answer: Any) -> Array:
        """The scores (classes,) that one answer stands for, float64."""
        if isinstance(answer, list) and not any(isinstance(e, dict) for e in answer):
            return self._all_scores(answer)
        if self._classes is None and self._cache is not None:
            # Other processes may have filled the cache, classes before answers.
            key = self._key(_CLASSES)
            said = self._cache.find([key]).get(key)
            self._classes = None if said is None else _checked(said, self.name)
        if self._classes is None:
            raise BadInput(
                f"{self.name} names classes but does not show all scores, so they must "
                "be known, their names in order or how many there are: let the answer "
                'say them ("classes": 10), or make the model in a Python file, by '
                "robustkit.RemoteModel(..., classes=...)"
            )
        classes = Classes(self._classes, self.name)
        self._others = classes.others
        if isinstance(answer, list):
            if not all(isinstance(entry, dict) for entry in answer):
                raise self._unclear(answer)
            pairs = [(entry.get("label"), entry.get("score")) for entry in answer]
            return classes.few([(self._known(label), v) for label, v in pairs])
        if isinstance(answer, dict):
            return classes.few([(self._known(k), v) for k, v in answer.items()])
        return classes.one(self._known(answer))

    def _all_scores(self, answer: list[Any]) -> Array:
        known = self._classes
        count = known if isinstance(known, int) or known is None else len(known)
        if not answer or len(answer) != (count or len(answer)):
            raise BadInput(
                f"expected {count or 'some'} scores; {self.name} answers {len(answer)}"
            )
        numbers = all(
            isinstance(value, int | float | None) and not isinstance(value, bool)
            for value in answer
        )
        if not numbers:
            raise self._unclear(answer)
        try:
            return np.array([np.nan if v is None else v for v in answer], np.float64)
        except OverflowError as error:
            raise self._unclear(answer) from error

    def _unclear(self, answer: Any) -> BadInput:
        return BadInput(
            "expected all scores as a list of numbers, one label, or the best few as a "
            'list of {"label": ..., "score": ...} or an object of scores; '
            f"{self.name} answers {_excerpt(answer)}"
        )

    def _known(self, label: Any) -> Any:
        """A label in the form in which the classes are known: by number or by name."""
        if isinstance(self._classes, int):
            is_number = isinstance(label, str) and label.isdecimal()
            # Python reads no number of thousands of digits.
            return int(label) if is_number and len(label) < _DIGITS else label
        is_place = isinstance(label, int) and not isinstance(label, bool)
        if is_place and self._classes is not None and 0 <= label < len(self._classes):
            return self._classes[label]
        return label

    def _key(self, encoded: Any) -> str:
        text = json.dumps(
            [self._client.url, vars(self._template), encoded], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()


def _checked(classes: Any, model: str) -> list[str] | int:
    """How many classes there are, or their names in a list."""
    Classes(classes, model)
    return int(classes) if isinstance(classes, Integral) else list(classes)


def _filled(part: Any, encoded: list[Any]) -> Any:
    if part == _INPUTS:
        return encoded
    if part == _INPUT:
        return encoded[0]
    if isinstance(part, Mapping):
        return {key: _filled(value, encoded) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [_filled(value, encoded) for value in part]
    return part


def _excerpt(response: Any) -> str:
    return json.dumps(response)[:300]

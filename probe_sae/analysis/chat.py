"""Ask a language model that speaks the chat protocol of OpenAI, as most servers of models do.

Nothing in the project calls this unless a person makes a `ChatEndpoint`. What is sent are excerpts
of the corpus; the key goes only into the request's header.
"""

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from probe_sae.errors import EndpointError, SettingsError

KEY_VARIABLE = "PROBE_SAE_API_KEY"
"""Environment variable that holds the key where none is given; no other is looked at, so that a key
for one service is never sent to another."""

_PASSING = {408, 409, 429, 500, 502, 503, 504, 529}
"""Statuses after which a request is worth another try."""
_LONGEST_WAIT = 60.0
_MOST_BYTES = 2**20
"""Of an answer; more is not read."""


@dataclass
class ChatEndpoint:
    """A language model behind `base_url/chat/completions`."""

    base_url: str
    """For example `http://localhost:8000/v1`; `http` or `https`."""
    model: str
    """The model's name there."""
    api_key: str | None = field(default=None, repr=False)
    """Sent as a bearer token; without it, what `PROBE_SAE_API_KEY` holds, if anything."""
    timeout: float = 60.0
    """Seconds to wait for the server, each time."""
    tries: int = 5
    """How often a request is sent before it counts as failed."""
    requests_per_minute: float | None = None
    """Never send more."""
    pause: Callable[[float], None] = field(default=time.sleep, repr=False)
    """What waits between tries."""
    _next: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse addresses that are no web service, and keys that would travel in the clear."""
        self.api_key = self.api_key or os.environ.get(KEY_VARIABLE) or None
        try:
            parts = urllib.parse.urlsplit(self.base_url)
            host = parts.hostname
            _ = parts.port
        except ValueError as problem:
            raise SettingsError(f"{self.base_url!r:.200} is no address ({problem}).") from problem
        if parts.scheme not in ("http", "https") or not host:
            raise SettingsError(
                f"an address starts with http:// or https://; this one is {self.base_url!r:.200}."
            )
        if parts.username or parts.password:
            raise SettingsError("an address must not hold a password; give it as api_key.")
        if self.api_key and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise SettingsError("the API key holds characters that no header may have.")
        is_near = host == "localhost" or host == "::1" or host.startswith("127.")
        if self.api_key and parts.scheme == "http" and not is_near:
            raise SettingsError(f"a key would travel unencrypted to {host}: use https://.")
        if self.tries < 1 or self.timeout <= 0 or (self.requests_per_minute or 1) <= 0:
            raise SettingsError("tries, timeout and requests_per_minute must be over 0.")

    def ask(self, system: str, user: str) -> str:
        """Return the model's answer to one question.

        Args:
            system: what the model is to do.
            user: the question.

        Raises:
            EndpointError: it cannot be reached, refuses, or answers what is no answer.
        """
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body = {"model": self.model, "messages": messages, "temperature": 0}
        sent = json.dumps(body).encode()
        for attempt in range(self.tries):
            self._keep_to_the_rate()
            try:
                return _content(self._post(sent))
            except _Passing as problem:
                if attempt + 1 == self.tries:
                    raise EndpointError(
                        f"{self._place()} failed {self.tries} times, last with: {problem}."
                    ) from None
                self.pause(min(_LONGEST_WAIT, problem.wait or 2.0**attempt))
        raise AssertionError("unreachable")

    def _keep_to_the_rate(self) -> None:
        if self.requests_per_minute:
            now = time.monotonic()
            if now < self._next:
                self.pause(self._next - now)
            self._next = max(now, self._next) + 60 / self.requests_per_minute

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        address = self.base_url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(address, body, headers, method="POST")
        try:
            with _opener().open(request, timeout=self.timeout) as answer:
                return answer.read(_MOST_BYTES + 1)
        except urllib.error.HTTPError as problem:
            said = self._without_key(_start_of(problem))
            if problem.code in _PASSING:
                raise _Passing(f"status {problem.code} {said}", _wait(problem)) from None
            raise EndpointError(f"{self._place()} answered {problem.code}: {said}") from None
        except (
            OSError,
            http.client.HTTPException,
        ) as problem:  # timeouts and refusals are OSErrors
            raise _Passing(self._without_key(f"{type(problem).__name__} {problem}")) from None

    def _place(self) -> str:
        return f"the language model at {self.base_url}"

    def _without_key(self, text: str) -> str:
        return text.replace(self.api_key, "[key]") if self.api_key else text


class _Passing(Exception):
    """A failure that may pass; `wait` is how long the server asks to be left alone, in seconds."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener of web addresses alone, which follows no redirect: the key stays here."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _start_of(problem: urllib.error.HTTPError) -> str:
    try:
        said = problem.read(2000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""
    return " ".join(said.split())[:300]


def _wait(problem: urllib.error.HTTPError) -> float | None:
    asked = problem.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() and asked.isascii() else None


def _content(answer: bytes) -> str:
    """Return the text of a chat completion."""
    if len(answer) > _MOST_BYTES:
        raise EndpointError(f"the language model's answer is longer than {_MOST_BYTES:,} bytes.")
    try:
        found: Any = json.loads(answer)
        content = found["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as problem:
        raise EndpointError(
            f"what the language model's server answered is no chat completion: {answer[:100]!r}."
        ) from problem
    if not isinstance(content, str):
        raise EndpointError("the language model's server answered without a text.")
    return content

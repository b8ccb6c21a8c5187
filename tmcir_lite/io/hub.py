"""What went wrong when a model could not be had from the hub, in one line that says what to do."""

import textwrap
from collections.abc import Iterator
from urllib.error import HTTPError

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

_CERTIFICATE = {"SSLError"}
_TIMEOUT = {"TimeoutError", "TimeoutException", "Timeout"}
_CONNECTION = {"ConnectionError", "TransportError", "LocalEntryNotFoundError", "gaierror", "URLError"}
"""Names of error classes: the hub's client has come on requests, httpx and httpx2, each with classes of its own."""


def explain(error: BaseException, model: str, revision: str | None = None) -> str:
    """The reason why `model` could not be loaded, and its remedy; the error's own first line where none is known.

    Goes by the types and status codes of the error and of those that led to it, never by the words of a message.
    """
    page, chain = f"https://huggingface.co/{model}", list(_chain(error))
    kinds = {kind.__name__ for one in chain for kind in type(one).__mro__}
    code = next(filter(None, map(_status, chain)), None)
    if any(isinstance(one, GatedRepoError) for one in chain):
        return f"its licence has to be accepted first: open {page} logged in, accept, then run `hf auth login`"
    if any(isinstance(one, RevisionNotFoundError) for one in chain):
        return f"it has no revision {revision!r}; take a commit from {page}/commits/main"
    if any(isinstance(one, RepositoryNotFoundError) for one in chain):
        return f"the hub has no such model, or it is private: look at {page}, or run `hf auth login`"
    if any(isinstance(one, EntryNotFoundError) and not isinstance(one, LocalEntryNotFoundError) for one in chain):
        return f"the hub's model lacks a file that is needed ({one_line(error)}): look at {page}/tree/main"
    if any(isinstance(one, HFValidationError) for one in chain):
        return "this is neither a folder here nor a model id of the hub (owner/name)"
    if code:
        return _of_status(code, page)
    if kinds & _CERTIFICATE or any("CERTIFICATE_VERIFY_FAILED" in str(one) for one in chain):
        return (
            "the hub's certificate cannot be verified, as behind a proxy with a certificate of its own: give the file "
            "with that certificate in SSL_CERT_FILE and REQUESTS_CA_BUNDLE"
        )
    if kinds & _TIMEOUT:
        return "the hub did not answer in time: try again later, or with HF_HUB_DOWNLOAD_TIMEOUT=60"
    if kinds & _CONNECTION:
        return (
            "the hub cannot be reached and the model is not in this machine's cache: unset HF_HUB_OFFLINE, or fetch it "
            f"where there is a network (`hf download {model}`) and give the folder instead of the name"
        )
    return one_line(error)


def one_line(error: BaseException) -> str:
    """An error's message on one line, shortened; its kind if there is none."""
    return textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__


def _of_status(code: int, page: str) -> str:
    if code == 401:
        return "the hub refuses this machine's token (401): run `hf auth login` again"
    if code == 403:
        return f"the hub refuses access (403): accept the licence on {page}, with a token that may read such models"
    if code == 404:
        return f"the hub has no such model, revision or file (404): look at {page}"
    if code == 429:
        return "the hub was asked too often from here (429): wait some minutes, or run `hf auth login`"
    if code >= 500:
        return f"the hub itself is in trouble ({code}): try again later; https://status.huggingface.co tells its state"
    return f"the hub answers with status {code}: look at {page}"


def _status(error: BaseException) -> int | None:
    """The HTTP status of the answer that an error is about, if it is about one; below 400 is none."""
    code = error.code if isinstance(error, HTTPError) else getattr(getattr(error, "response", None), "status_code", 0)
    return code if code and code >= 400 else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, those that it was raised from or while handling, and those that it wraps."""
    left, seen = [error], set()
    while left:
        error = left.pop(0)
        if isinstance(error, BaseException) and id(error) not in seen:
            seen.add(id(error))
            yield error
            left += [error.__cause__, error.__context__, getattr(error, "reason", None), *error.args]

"""What the hub refuses, by the types and status codes that its client, diffusers, transformers and open_clip raise."""

import re
import socket
import ssl
import urllib.error

import pytest
import requests
from huggingface_hub import errors

from tmcir_lite.io.hub import explain

URL = "https://huggingface.co/owner/resolve/main/connection-timed-out.json"


class Response:
    """As much of a hub's answer as its errors want."""

    headers, request = {}, None

    def __init__(self, status):
        self.status_code = status


def answered(kind, status):
    return kind(f"{status} Client Error for url: {URL}", response=Response(status))


def local(error):
    """As the hub's client tells of a file that it neither got nor found in the cache."""
    return wrapped(error, errors.LocalEntryNotFoundError(f"cannot find {URL} on the disk"))


def wrapped(error, around=None, by="cause"):
    """As libraries raise their own error from, or while handling, the first one."""
    around = around or OSError(f"We couldn't connect to 'https://huggingface.co' to load {URL}")
    setattr(around, f"__{by}__", error)
    return around


def status(code):
    return lambda: answered(errors.HfHubHTTPError, code)


def of_requests(reason):
    """requests wraps urllib3's error, which keeps the first one as its reason."""
    inner = Exception("Max retries exceeded with url: /owner/resolve/main/x")
    inner.reason = reason
    return requests.exceptions.ConnectionError(inner)


CASES = [
    (lambda: answered(errors.GatedRepoError, 403), "licence has to be accepted.*huggingface.co/owner/name"),
    (lambda: answered(errors.RevisionNotFoundError, 404), "no revision 'abc'.*commits/main"),
    (lambda: answered(errors.RepositoryNotFoundError, 401), "no such model, or it is private"),
    (lambda: answered(getattr(errors, "RemoteEntryNotFoundError", errors.EntryNotFoundError), 404), "lacks a file"),
    (lambda: errors.HFValidationError("Repo id must use alphanumeric chars"), "neither a folder here nor a model id"),
    (status(401), r"token \(401\)"),
    (status(403), r"refuses access \(403\).*licence"),
    (status(404), r"no such model, revision or file \(404\)"),
    (status(429), r"too often from here \(429\)"),
    (status(500), r"in trouble \(500\)"),
    (status(503), r"in trouble \(503\)"),
    (status(418), "status 418"),
    (lambda: urllib.error.HTTPError(URL, 503, "unavailable", {}, None), r"in trouble \(503\)"),
    (lambda: ssl.SSLCertVerificationError(1, "self-signed certificate in certificate chain"), "certificate cannot"),
    (lambda: requests.exceptions.SSLError("wrong certificate"), "certificate cannot be verified"),
    (lambda: of_requests(ssl.SSLCertVerificationError(1, "self-signed")), "certificate cannot be verified"),
    (lambda: urllib.error.URLError(ssl.SSLCertVerificationError(1, "self-signed")), "certificate cannot be verified"),
    (lambda: requests.exceptions.ReadTimeout("read"), "did not answer in time"),
    (lambda: requests.exceptions.ConnectTimeout("connect"), "did not answer in time"),
    (lambda: TimeoutError("timed out"), "did not answer in time"),
    (lambda: requests.exceptions.ConnectionError("refused"), "cannot be reached"),
    (lambda: of_requests(socket.gaierror(-2, "Name or service not known")), "cannot be reached"),
    (lambda: urllib.error.URLError(socket.gaierror(-2, "Name or service not known")), "cannot be reached"),
    (lambda: errors.OfflineModeIsEnabled("offline"), "cannot be reached.*hf download owner/name"),
    (lambda: errors.LocalEntryNotFoundError("not on the disk"), "cannot be reached.*hf download owner/name"),
]


@pytest.mark.parametrize("around", [lambda error: error, wrapped, lambda error: wrapped(error, by="context"), local])
@pytest.mark.parametrize(("error", "words"), CASES)
def test_each_error_is_told_by_its_type_however_it_is_wrapped(error, words, around):
    line = explain(around(error()), "owner/name", "abc")
    assert "\n" not in line
    assert re.search(words, line), line


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [("ConnectError", "cannot be reached"), ("ReadTimeout", "did not answer"), ("ProxyError", "cannot be reached")],
)
def test_newer_clients_have_errors_of_their_own(library, kind, words):
    library = pytest.importorskip(library)
    assert words in explain(wrapped(getattr(library, kind)("it failed")), "owner/name")
    refused = wrapped(ssl.SSLCertVerificationError(1, "self-signed"), library.ConnectError("failed"))
    assert "certificate" in explain(refused, "owner/name")


def test_words_of_a_message_or_its_url_decide_nothing():
    error = OSError(f"disk full while writing connection.json from {URL}\nand more")
    assert explain(error, "owner/name") == str(error).replace("\n", " ")
    assert explain(KeyError(), "owner/name") == "KeyError"
    assert len(explain(ValueError("word " * 1000), "owner/name")) <= 300

"""What went wrong when a model could not be had from the hub, in one line that says what to do."""

from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

_UNREACHABLE = (
    "offline mode",
    "connection",
    "resolve",
    "unreachable",
    "couldn't connect",
    "timed out",
    "cannot find the",
)


def explain(error: BaseException, model: str, revision: str | None = None) -> str:
    """The reason why `model` could not be loaded, and its remedy; the error's own first line where none is known."""
    page = f"https://huggingface.co/{model}"
    chain = list(_chain(error))
    text = " ".join(str(part) for part in chain).lower()
    if _any(chain, GatedRepoError) or "gated repo" in text:
        return f"its licence has to be accepted first: open {page} logged in, accept, then run `hf auth login`"
    if _any(chain, RevisionNotFoundError) or "is not a valid git identifier" in text:
        return f"it has no revision {revision!r}; take a commit from {page}/commits/main"
    if _any(chain, RepositoryNotFoundError) or "is not a valid model identifier" in text:
        return f"the hub has no such model, or it is private: look at {page}, or run `hf auth login`"
    if _any(chain, OfflineModeIsEnabled) or any(word in text for word in _UNREACHABLE):
        return (
            "the hub cannot be reached and the model is not in this machine's cache: unset HF_HUB_OFFLINE, or fetch it "
            f"where there is a network (`hf download {model}`) and give the folder instead of the name"
        )
    return first_line(error)


def first_line(error: BaseException) -> str:
    """An error's message, its first line that says something; its kind if there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _chain(error: BaseException | None):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _any(chain: list[BaseException], kind: type) -> bool:
    return any(isinstance(error, kind) for error in chain)

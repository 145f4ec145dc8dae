"""What a server takes, and how much of it."""

import hashlib
from typing import Annotated

from pydantic import Field

from detcore.config.section import Count, NonNegative, Positive, Section


class ServingSettings(Section):
    """How a model is served. The same words, with dashes, are the options of `detcore serve`."""

    model: str
    """As `detcore.load` takes it."""
    name: str = ""
    """What clients see instead of that."""
    device: str = "auto"
    max_batch: Count = 8
    """Images that the model looks at together."""
    max_wait_ms: NonNegative = 5.0
    """How long an idle model waits for a second image. A busy one gathers all that arrives meanwhile."""
    max_queue: Count = 64
    """Requests a replica works on or keeps waiting; more are told to come again (503)."""
    max_bytes: Count = 20_000_000
    """Of an image file; larger ones are refused (413)."""
    max_pixels: Count = 25_000_000
    """Of an image, as its header has it; larger ones are refused (413) without being decoded."""
    timeout_seconds: Positive = 30.0
    """For a request to arrive whole (408), and again for its answer (503)."""
    url_hosts: tuple[str, ...] = ()
    """Servers that images may be fetched from. A request that names another, or any where there are none, is refused:
    otherwise strangers would see what this machine can reach."""
    token_sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    """SHA-256 of the token that requests must bring as `Authorization: Bearer TOKEN`; empty asks for none."""

    @property
    def shown_name(self) -> str:
        """What clients see."""
        return self.name or self.model


def sha256_of(token: str) -> str:
    """What is kept of a token: nobody can log what nobody has.

    Raises:
        ValueError: it is empty, or no header can hold it.
    """
    if not token or not token.isascii() or not token.isprintable() or token != token.strip():
        raise ValueError("the token must be printable ASCII, without blanks around it")
    return hashlib.sha256(token.encode()).hexdigest()

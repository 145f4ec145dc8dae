"""Where prepared data and checkpoints lie: a folder, or a URL of an object store or a web server."""

import re
from urllib.parse import urlsplit

from detcore.config.section import Count, Positive, Section

SCHEMES = ("s3", "gs", "http", "https")


class Store(Section):
    """How a store is read and written, where `shards` is a URL.

    The local copies lie below the folder that the environment variable DETCORE_CACHE names, else ~/.cache/detcore;
    credentials and endpoints come from the environment and the stores' own files (AWS_PROFILE, AWS_ENDPOINT_URL,
    ~/.aws, GOOGLE_APPLICATION_CREDENTIALS, ~/.netrc), never from here.
    """

    cache_gb: Positive = 100.0
    """At most so much (10^9 bytes) is kept on each machine's disk; what was not used for longest goes first."""
    timeout_seconds: Positive = 30.0
    """For one request, which fetches at most 8 MiB; connecting included."""
    tries: Count = 6
    """How often a request may fail (time-out, 5xx, cut connection) before that is an error."""


def is_url(place: object) -> bool:
    """Whether something lies in a store, not in a folder."""
    return "://" in str(place)


def checked_place(place: str) -> str:
    """A place of shards or checkpoints, without a slash at its end.

    Raises:
        ValueError: a URL of another scheme, without a bucket or host, or with credentials, a query or a fragment.
    """
    if not is_url(place):
        return place
    url = urlsplit(place)
    if url.scheme not in SCHEMES:
        raise ValueError(f"{without_secrets(place)} is none of {', '.join(f'{s}://' for s in SCHEMES)} nor a folder")
    if "@" in url.netloc or url.query or url.fragment:
        raise ValueError(
            f"{without_secrets(place)}: the address is logged, so credentials, queries and fragments do not belong"
            " there; set them in the environment or the store's own files (docs/data_stores.md)"
        )
    if not url.netloc:
        raise ValueError(f"{place} names no {'host' if url.scheme.startswith('http') else 'bucket'}")
    return place.rstrip("/")


def without_secrets(text: str) -> str:
    """A text with the parts of its URLs cut out that may be credentials: user and password, query and fragment."""
    return re.sub(r"(\w://)[^/\s@]*@", r"\1…@", re.sub(r"(\w://[^\s'\"?#]*)[?#][^\s'\"]*", r"\1", text))

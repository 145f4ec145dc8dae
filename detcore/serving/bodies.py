"""What clients send: an image as it is, in a form, or in JSON; read with limits."""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Callable

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from detcore.inference.fetching import fetch
from detcore.serving.refused import Refused
from detcore.serving.settings import ServingSettings

_ENVELOPE_BYTES = 10_000
"""Room for what stands around an image in a form or in JSON."""
_PIECE_BYTES = 1 << 20
_HOW = (
    "send the file itself (Content-Type: image/jpeg, image/png, … or application/octet-stream), a form with the field "
    'image (multipart/form-data), or JSON {"image": "BASE64"}'
)


class JsonBody(BaseModel):
    """One of the two."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image: str | None = None
    url: str | None = None


async def image_of(request: Request, settings: ServingSettings) -> bytes:
    """The image file that a request brings or names.

    Raises:
        Refused: there is none, it is too large, takes too long, or its server is not among `settings.url_hosts`.
        ClientDisconnect: nobody waits for an answer any more.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Refused(415, f"Content-Encoding {encoding!r}: send the image as it is, it is compressed already")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        image = await _body(request, settings.max_bytes, settings)
    elif kind == "multipart/form-data":
        image = await _of_form(request, await _body(request, settings.max_bytes + _ENVELOPE_BYTES, settings))
    elif kind == "application/json":
        most = -(-settings.max_bytes // 3) * 4 + _ENVELOPE_BYTES
        image = await _of_json(await _body(request, most, settings), settings)
    else:
        raise Refused(415, f"Content-Type {kind!r}: {_HOW}")
    if not image:
        raise Refused(400, f"there is no image in the request: {_HOW}")
    if len(image) > settings.max_bytes:
        raise _too_large(settings)
    return image


async def _body(request: Request, most_bytes: int, settings: ServingSettings) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most_bytes:
        raise _too_large(settings)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.timeout_seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > most_bytes:
                    raise _too_large(settings)
    except TimeoutError:
        raise Refused(408, f"the request did not arrive within {settings.timeout_seconds:g} s") from None
    return bytes(body)


def _too_large(settings: ServingSettings) -> Refused:
    return Refused(413, f"the image is larger than the {settings.max_bytes:,} bytes that this server takes")


async def _of_form(request: Request, body: bytes) -> bytes:
    async def pieces() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), _PIECE_BYTES):
            yield body[start : start + _PIECE_BYTES]

    parser = MultiPartParser(request.headers, pieces(), max_files=1, max_fields=0, max_part_size=_ENVELOPE_BYTES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"the form cannot be read: {error.message} {_FORM}") from None
    try:
        file = form.get("image")
        if not isinstance(file, UploadFile):
            raise Refused(400, f"the form has no file in a field called image. {_FORM}")
        return await file.read()
    finally:
        await form.close()


_FORM = "It has one field, image, which is a file: curl -F image=@scene.jpg; all else goes into the query."


async def _of_json(body: bytes, settings: ServingSettings) -> bytes:
    try:
        sent = JsonBody.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise Refused(400, f"the JSON cannot be taken: {place and place + ': '}{fault['msg']}") from None
    if (sent.image is None) == (sent.url is None):
        raise Refused(400, 'the JSON must have one of "image" (base64) and "url"')
    if sent.image is None:
        assert sent.url is not None
        return await _fetched(sent.url, settings)
    try:
        return base64.b64decode(sent.image, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, '"image" is not base64; of a file: base64 -w0 scene.jpg') from None


async def _fetched(address: str, settings: ServingSettings) -> bytes:
    if not settings.url_hosts:
        raise Refused(403, "this server fetches no addresses: send the image itself")
    fetching: Callable[[], bytes] = lambda: fetch(  # noqa: E731
        address,
        most_bytes=settings.max_bytes,
        timeout_seconds=settings.timeout_seconds,
        hosts=frozenset(settings.url_hosts),
    )
    try:
        async with asyncio.timeout(settings.timeout_seconds):
            return await asyncio.to_thread(fetching)
    except TimeoutError:
        raise Refused(400, f"{address[:200]}: not there within {settings.timeout_seconds:g} s") from None
    except ValueError as error:
        raise Refused(400, str(error)) from None


__all__ = ["ClientDisconnect", "JsonBody", "image_of"]

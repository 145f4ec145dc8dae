"""The HTTP server's pages, the same with Ray and without."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import detcore
from detcore.serving.answers import JsonQuestion, PictureQuestion, Question
from detcore.serving.bodies import ClientDisconnect, JsonBody, image_of
from detcore.serving.detector import ServedDetector
from detcore.serving.metrics import CONTENT_TYPE, ServingMetrics
from detcore.serving.page import page
from detcore.serving.refused import Refused
from detcore.serving.settings import ServingSettings

_FILE = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "one image: the file itself, a form's field, or base64 in JSON",
        "content": {
            "image/*": _FILE,
            "application/octet-stream": _FILE,
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["image"], "properties": {"image": _FILE["schema"]}}
            },
            "application/json": {"schema": JsonBody.model_json_schema()},
        },
    }
}
_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}
_REASONS = {
    400: "no image, or a body that cannot be read",
    408: "it did not arrive in time",
    413: "too many bytes or pixels",
    415: "no image file",
    422: "a broken image, or a wrong query",
    503: "too busy: come again",
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": reason, "content": _ERROR} for status, reason in _REASONS.items()
}
_PICTURE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": _FILE}}}


def create_app(detector: ServedDetector, settings: ServingSettings, metrics: ServingMetrics) -> FastAPI:
    """The ASGI application that serves a detector.

    Args:
        detector: ready.
        settings: limits, and whether a token is asked for.
        metrics: the one that `detector` tells of its batches.
    """
    app = FastAPI(
        title=f"detcore: {settings.shown_name}",
        version=detcore.__version__,
        docs_url=None,  # their pages load scripts from elsewhere; `/` has its own
        redoc_url=None,
        dependencies=[Depends(_token_check(settings))],
    )
    desk = _Desk(detector, settings, metrics)

    @app.post("/predict", openapi_extra=_BODY, responses=_REFUSALS, summary="what is in an image")
    async def predict(request: Request, question: Annotated[JsonQuestion, Query()]) -> Response:
        return Response(await desk.answer(request, question), media_type="application/json")

    @app.post("/draw", openapi_extra=_BODY, responses={**_PICTURE, **_REFUSALS},
              response_class=Response, summary="the image with what is in it drawn on")  # fmt: skip
    async def draw(request: Request, question: Annotated[PictureQuestion, Query()]) -> Response:
        return Response(await desk.answer(request, question), media_type="image/png")

    @app.get("/model", summary="what is served, and with which limits")
    async def model() -> dict[str, Any]:
        return _about(detector, settings)

    @app.get("/health", summary="200, or 503 where the model has been stuck for long")
    async def health() -> dict[str, str]:
        if detector.stuck:
            raise Refused(503, "the model has not come back from a batch")
        return {"status": "ok"}

    @app.get("/ready", summary="200, or 503 while more requests wait than are taken")
    async def ready() -> dict[str, str]:
        if desk.full:
            raise desk.busy()
        return {"status": "ready"}

    @app.get("/metrics", summary="for Prometheus", response_class=Response)
    async def measured() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/", summary="a page to try it on", response_class=HTMLResponse, include_in_schema=False)
    async def front(request: Request) -> str:
        return page(settings, detector.predictor.labels, address=str(request.base_url).rstrip("/"))

    _with_plain_errors(app)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    app.add_middleware(_Counted, metrics=metrics, paths=paths)
    return app


class _Desk:
    """Where questions are taken in, so many at a time."""

    def __init__(self, detector: ServedDetector, settings: ServingSettings, metrics: ServingMetrics) -> None:
        self._detector, self._settings, self._metrics = detector, settings, metrics
        self._present = 0

    @property
    def full(self) -> bool:
        return self._present >= self._settings.max_queue

    def busy(self) -> Refused:
        return Refused(503, f"{self._present} requests are waiting already: come again in a second")

    async def answer(self, request: Request, question: Question) -> bytes:
        """The answer's body.

        Raises:
            Refused: for a reason.
            ClientDisconnect: nobody waits for it any more.
        """
        self._detector.thresholds(question)  # a wrong query is told before an image is sent
        if self.full:
            raise self.busy()
        self._present += 1
        self._metrics.now(self._present)
        try:
            data = await image_of(request, self._settings)
            async with asyncio.timeout(self._settings.timeout_seconds):
                return await _while_connected(request, self._detector.answer(data, question))
        except TimeoutError:
            limit = self._settings.timeout_seconds
            raise Refused(503, f"not answered within {limit:g} s: there is too much to do, come again") from None
        finally:
            self._present -= 1
            self._metrics.now(self._present)


async def _while_connected(request: Request, answer: Awaitable[bytes]) -> bytes:
    """Gives up with the client: a model's time is worth more than a closed connection."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(answer), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise ClientDisconnect
    finally:
        for task in tasks:
            task.cancel()


def _token_check(settings: ServingSettings) -> Callable[[Request], Awaitable[None]]:
    async def check(request: Request) -> None:
        """Health is everybody's: whoever starts and stops replicas asks for it."""
        if not settings.token_sha256 or request.url.path in ("/health", "/ready"):
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(token.strip().encode("utf-8", "surrogatepass")).hexdigest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(digest, settings.token_sha256):
            raise HTTPException(401, "needs the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    return check


def _about(detector: ServedDetector, settings: ServingSettings) -> dict[str, Any]:
    predictor = detector.predictor
    return {
        "model": settings.shown_name,
        "labels": list(predictor.labels),
        "semantic_labels": list(predictor.semantic_labels),
        "keypoint_names": list(predictor.keypoint_names),
        "predicts": list(getattr(predictor.model, "predicts", ("boxes",))),
        "device": str(predictor.device),
        "detcore": detcore.__version__,
        "limits": settings.model_dump(exclude={"model", "name", "device", "token_sha256"}),
    }


def _error(status: int, reason: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": reason}, status, headers)


def _with_plain_errors(app: FastAPI) -> None:
    """Each error is one line of JSON; what is our fault stands in the log, and is not for strangers."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return _error(error.status, error.reason, {"Retry-After": "1"} if error.status == 503 else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        fault = error.errors()[0]
        name = ".".join(str(part) for part in fault["loc"] if part != "query")
        unknown = fault["type"] == "extra_forbidden"
        reason = "there is no such parameter" if unknown else fault["msg"].removeprefix("Value error, ")
        given = "" if unknown or not name else f", got {str(fault['input'])[:80]!r}"
        return _error(422, f"{name[:80]}: {reason}{given}" if name else reason)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        reason = "no such page; GET / says what there is" if error.status_code == 404 else error.detail
        return _error(error.status_code, reason, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def disconnected(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nginx's number; nobody reads it but the metrics

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return _error(500, "an error of the server; its log has it")


class _Counted:
    """Counts answers, those to wrong requests too."""

    def __init__(self, app: ASGIApp, metrics: ServingMetrics, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.answered(path, status, time.perf_counter() - began)

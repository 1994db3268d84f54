"""The HTTP API: its paths, and how each error becomes a status.

A row of `/predict` is that of `swinclf predict --format jsonl`; its errors are those of
skipped.csv.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from swinclf import __version__
from swinclf.confidence.selective import threshold_for
from swinclf.data.images import ExcessiveImage, UnknownFormat, UnreadableImage
from swinclf.device import versions
from swinclf.errors import RunError, SwinclfError
from swinclf.files import json_text
from swinclf.inference.prediction import Prediction, prediction_json
from swinclf.inference.predictor import Predictor
from swinclf.inference.stream import to_prediction
from swinclf.reporting.html import page_template
from swinclf.serving.batcher import ImageBatcher
from swinclf.serving.gate import RETRY_AFTER, RequestError, ServeCounters
from swinclf.serving.serve_limits import ServeLimits
from swinclf.serving.uploads import FORM, Upload, UploadReader

JSON, JSON_LINES = "application/json", "application/x-ndjson"
STATUSES = {ExcessiveImage: 413, UnknownFormat: 415, UnreadableImage: 422}
TopK = Annotated[int, Query(ge=1, description="Classes of each image.")]
Reject = Annotated[
    float | None,
    Query(gt=0, lt=1, description="Target accuracy of accepted predictions; others are unknown."),
]
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILES = {"type": "object", "additionalProperties": _BINARY["schema"]}
REQUEST_BODY = {"required": True, "content": {FORM: {"schema": _FILES}, "image/*": _BINARY}}


@dataclass(frozen=True)
class PredictionService:
    """What the API answers from."""

    predictor: Predictor
    metrics: Mapping[str, Any] | None  # of the model's run; None if it is not in one
    reject: float | None  # target accuracy of requests that name none; None accepts all
    limits: ServeLimits
    batcher: ImageBatcher
    counters: ServeCounters

    def description(self) -> dict[str, Any]:
        """Return what `/model` answers."""
        card = self.predictor.card
        return {
            "model": card.model,
            "classes": card.classes,
            "preprocessing": card.preprocess.to_dict(),
            "metrics": self.metrics,
            "versions": {"trained": dict(card.versions), "serving": versions()},
            "device": self.predictor.device,
            "reject": self.reject,
            "limits": asdict(self.limits),
        }

    def check_reject(self, reject: float | None) -> None:
        """Raise a RequestError if the model has no threshold for this target accuracy."""
        try:
            if reject is not None:
                threshold_for(self.predictor.card.confidence, reject)
        except RunError as error:
            raise RequestError(
                422, error.expected, found=error.found, hint="a request without reject"
            ) from error

    async def predict(
        self, uploads: list[Upload], top_k: int, reject: float | None
    ) -> tuple[int, list[Prediction]]:
        """Return the status and the predictions for the images of one request, in order.

        Raises:
            RequestError: If too many images wait already, or the time is over.
        """
        waiting = self.batcher.waiting
        if waiting and waiting + len(uploads) > self.limits.queue:
            raise RequestError(
                429,
                f"at most {self.limits.queue} images of all requests at a time",
                found=f"{waiting}, and {len(uploads)} more",
                hint="send it again later",
                headers=RETRY_AFTER,
            )
        futures = [asyncio.wrap_future(self.batcher.submit(one.data)) for one in uploads]
        done = asyncio.gather(*futures, return_exceptions=True)
        try:
            results = await asyncio.wait_for(done, self.limits.seconds)
        except TimeoutError as error:
            raise RequestError(
                503,
                f"an answer within {self.limits.seconds:g} s",
                found=f"{self.batcher.waiting} images waiting",
                hint="send it again later, or fewer images",
                headers=RETRY_AFTER,
            ) from error
        predictions, statuses = [], []
        for upload, result in zip(uploads, results, strict=True):
            if isinstance(result, UnreadableImage):
                predictions.append(Prediction(upload.name, "", 0.0, (), str(result)))
                statuses.append(STATUSES[type(result)])
            elif isinstance(result, BaseException):
                raise result
            else:
                card = self.predictor.card
                statuses.append(200)
                predictions.append(
                    to_prediction(upload.name, result, card, top_k=top_k, reject=reject)
                )
            state = "unreadable" if predictions[-1].error else "predicted"
            self.counters.images.labels(state).inc()
        return min(statuses), predictions


def build_api(service: PredictionService) -> FastAPI:
    """Return the application."""
    app = FastAPI(title="swinclf", version=__version__, docs_url=None, redoc_url=None)
    reader = UploadReader(service.limits)
    page = page_template("serving", "drop_page.html.jinja").render()

    @app.post("/predict", openapi_extra={"requestBody": REQUEST_BODY})
    async def predict(request: Request, top_k: TopK = 5, reject: Reject = None) -> Response:
        """Predict the class of an image (the body), or of each file of a form."""
        target = service.reject if reject is None else reject
        service.check_reject(target)
        async with reader.read(request) as uploads:
            status, predictions = await service.predict(uploads, top_k, target)
        rows = [prediction_json(one, reject=target is not None) for one in predictions]
        if JSON in request.headers.get("accept", ""):
            return Response(f"[{', '.join(rows)}]\n", status, media_type=JSON)
        return Response("\n".join(rows) + "\n", status, media_type=JSON_LINES)

    @app.get("/model")
    async def model() -> Response:
        """Describe the model: classes, preprocessing, scores, versions."""
        return Response(json_text(service.description()), media_type=JSON)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the server answers."""
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return counters in the text format of Prometheus."""
        return Response(service.counters.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        # The rest of its policy is in the page; this part counts as a header only.
        return HTMLResponse(page, headers={"content-security-policy": "frame-ancestors 'none'"})

    _add_error_handlers(app)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Answer every error as JSON, with the key `error`."""

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return error.response()

    @app.exception_handler(UnreadableImage)
    async def unreadable(_: Request, error: UnreadableImage) -> Response:
        row = prediction_json(Prediction("", "", 0.0, (), str(error)), reject=False)
        return Response(row + "\n", STATUSES[type(error)], media_type=JSON_LINES)

    @app.exception_handler(SwinclfError)  # the model failed, such as for want of memory
    async def failed(_: Request, error: SwinclfError) -> Response:
        again = {"found": error.found, "hint": "send it again later"}
        return RequestError(503, error.expected, **again, headers=RETRY_AFTER).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name, found = first["loc"][-1], f"{first['input']}: {first['msg']}"
        hint = "POST /predict?top_k=5&reject=0.95"
        return RequestError(422, f"a valid {name}", found=found, hint=hint).response()

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return RequestError(
            error.status_code,
            "a path and a method of this server",
            found=f"{request.method} {request.url.path}: {error.detail}",
            hint="GET /openapi.json, which lists them",
            headers=dict(error.headers or {}),
        ).response()

    @app.exception_handler(ClientDisconnect)
    async def gone(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody receives it

"""The body of a request: bytes to a checked model, each check in the order that costs us least."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, ValidationError

from broker import strict_json
from broker.strict_json import JsonInvalidError
from broker.web.claims import claim_of
from broker.web.problems import HttpRefusedError, WebCode

_MAX_FAULTS: Final = 5

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """How large a body may be, and in which time it has to arrive."""

    max_bytes: int = 256 * 1024
    seconds: float = 10.0


async def read_model(request: web.Request, model: type[ModelT], limits: BodyLimits) -> ModelT:
    """Return the JSON body of `request` as `model`.

    Raises:
        HttpRefusedError: It is too large, of another type, encoded, slow, cut, no acceptable JSON, or does not fit.

    """
    return model_of(await read_bytes(request, limits), model)


async def read_bytes(request: web.Request, limits: BodyLimits) -> bytes:
    """Return the body of `request` as it came, which is said to be JSON.

    Raises:
        HttpRefusedError: It is too large, of another type, encoded, slow, or cut.
        InFlightLimitError: Too many bodies are arriving.

    """
    _check_head(request)
    return await read_raw(request, limits)


async def read_raw(request: web.Request, limits: BodyLimits) -> bytes:
    """Return the body of `request` as it came, whatever it is said to be.

    Raises:
        HttpRefusedError: It is too large, slow, or cut.
        InFlightLimitError: Too many bodies are arriving.

    """
    if request.content_length is not None and request.content_length > limits.max_bytes:
        raise _too_large(limits.max_bytes)
    return await _read(request, limits)


def model_of(raw: bytes, model: type[ModelT]) -> ModelT:
    """Return the JSON in `raw` as `model`.

    Raises:
        HttpRefusedError: It is no acceptable JSON, or does not fit.

    """
    document = parse_json(raw)
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise HttpRefusedError(WebCode.REQUEST_INVALID, _explain(error)) from None


def parse_json(raw: bytes) -> object:
    """Return what `raw` says in strict JSON.

    Raises:
        HttpRefusedError: It is something else.

    """
    try:
        return strict_json.read(raw, what="the body")
    except JsonInvalidError as error:
        raise HttpRefusedError(WebCode.BODY_NOT_JSON, error.detail) from None


def _check_head(request: web.Request) -> None:
    if request.headers.getall("Content-Type", []) != ["application/json"] and not _is_json_type(request):
        raise HttpRefusedError(WebCode.CONTENT_TYPE, "send the body as `Content-Type: application/json`, in UTF-8")
    if "Content-Encoding" in request.headers:
        raise HttpRefusedError(WebCode.CONTENT_ENCODING, "send the body without `Content-Encoding`")


def _is_json_type(request: web.Request) -> bool:
    """Tell whether the one declared type is JSON in UTF-8, however it is spelled."""
    if len(request.headers.getall("Content-Type", [])) != 1 or request.content_type != "application/json":
        return False
    return (request.charset or "utf-8").lower() == "utf-8"


async def _read(request: web.Request, limits: BodyLimits) -> bytes:
    if request.content.is_eof() and request.content.exception() is None:
        # It came with the head, as nearly every body does, so there is nothing to wait for.
        whole = request.content.read_nowait()
        if len(whole) > limits.max_bytes:
            raise _too_large(limits.max_bytes)
        return whole
    claim = claim_of(request)
    if claim is not None:
        claim.body(limits.max_bytes if request.content_length is None else request.content_length)
    read: Callable[[], Any] = request.content.readany
    chunks = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            while chunk := await read():
                chunks += chunk
                if len(chunks) > limits.max_bytes:
                    raise _too_large(limits.max_bytes)
    except TimeoutError:
        message = f"the body did not arrive within {limits.seconds:g} seconds"
        raise HttpRefusedError(WebCode.BODY_TIMEOUT, message, headers={"Connection": "close"}) from None
    except (ClientPayloadError, web.RequestPayloadError, HttpProcessingError, ConnectionError):
        raise HttpRefusedError(WebCode.BODY_INCOMPLETE, "the body is cut or wrongly framed") from None
    return bytes(chunks)


def _explain(error: ValidationError) -> str:
    """Return the faults by place and kind, with nothing that the caller wrote: neither values nor member names."""
    faults = []
    for fault in error.errors(include_input=False, include_url=False, include_context=False)[:_MAX_FAULTS]:
        if fault["type"] == "extra_forbidden":
            faults.append("a member is not known")
        else:
            faults.append(f"{_place(fault['loc'])}: {fault['msg']}")
    return "; ".join(faults)


def _place(path: tuple[str | int, ...]) -> str:
    """Return the name of a field and the numbers below it; any other name below it is the caller's own."""
    return (
        ".".join("*" if depth and isinstance(part, str) else str(part) for depth, part in enumerate(path)) or "the body"
    )


def _too_large(max_bytes: int) -> HttpRefusedError:
    message = f"a body has at most {max_bytes} bytes"
    return HttpRefusedError(WebCode.BODY_TOO_LARGE, message, headers={"Connection": "close"})

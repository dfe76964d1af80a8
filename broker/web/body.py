"""The body of a request: bytes to a checked model, each check in the order that costs us least."""

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, ValidationError

from broker.web.problems import HttpRefusedError, WebCode

MAX_DEPTH: Final = 16
# Strings are skipped whole, also one that never ends, so the scan is linear whatever the body is.
_STRUCTURE: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_MAX_FAULTS: Final = 5

ModelT = TypeVar("ModelT", bound=BaseModel)


async def read_model(request: web.Request, model: type[ModelT], *, max_bytes: int, seconds: float) -> ModelT:
    """Return the JSON body of `request` as `model`.

    Raises:
        HttpRefusedError: It is too large, of another type, encoded, slow, cut, no acceptable JSON, or does not fit.

    """
    return model_of(await read_bytes(request, max_bytes=max_bytes, seconds=seconds), model)


async def read_bytes(request: web.Request, *, max_bytes: int, seconds: float) -> bytes:
    """Return the body of `request` as it came, which is said to be JSON.

    Raises:
        HttpRefusedError: It is too large, of another type, encoded, slow, or cut.

    """
    _check_head(request, max_bytes)
    return await _read(request, max_bytes, seconds)


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
    """Return what `raw` says in strict JSON: UTF-8, no duplicate keys, no NaN, at most 16 levels.

    Raises:
        HttpRefusedError: It is something else.

    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        message = "the body is not UTF-8"
        raise _not_json(message) from None
    if text.startswith("\ufeff"):
        message = "the body begins with a byte order mark"
        raise _not_json(message)
    _check_depth(text)
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        message = f"the body is not JSON: line {error.lineno}, column {error.colno}"
        raise _not_json(message) from None
    except (ValueError, RecursionError):
        message = "the body holds a number that is too long"
        raise _not_json(message) from None


def _check_head(request: web.Request, max_bytes: int) -> None:
    if request.content_length is not None and request.content_length > max_bytes:
        raise _too_large(max_bytes)
    if request.headers.getall("Content-Type", []) != ["application/json"] and not _is_json_type(request):
        raise HttpRefusedError(WebCode.CONTENT_TYPE, "send the body as `Content-Type: application/json`, in UTF-8")
    if "Content-Encoding" in request.headers:
        raise HttpRefusedError(WebCode.CONTENT_ENCODING, "send the body without `Content-Encoding`")


def _is_json_type(request: web.Request) -> bool:
    """Tell whether the one declared type is JSON in UTF-8, however it is spelled."""
    if len(request.headers.getall("Content-Type", [])) != 1 or request.content_type != "application/json":
        return False
    return (request.charset or "utf-8").lower() == "utf-8"


async def _read(request: web.Request, max_bytes: int, seconds: float) -> bytes:
    if request.content.is_eof() and request.content.exception() is None:
        # It came with the head, as nearly every body does, so there is nothing to wait for.
        whole = request.content.read_nowait()
        if len(whole) > max_bytes:
            raise _too_large(max_bytes)
        return whole
    read: Callable[[], Any] = request.content.readany
    chunks = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while chunk := await read():
                chunks += chunk
                if len(chunks) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        message = f"the body did not arrive within {seconds:g} seconds"
        raise HttpRefusedError(WebCode.BODY_TIMEOUT, message, headers={"Connection": "close"}) from None
    except (ClientPayloadError, web.RequestPayloadError, HttpProcessingError, ConnectionError):
        raise HttpRefusedError(WebCode.BODY_INCOMPLETE, "the body is cut or wrongly framed") from None
    return bytes(chunks)


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _STRUCTURE.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                message = f"the body is nested deeper than {MAX_DEPTH} levels"
                raise _not_json(message)
        elif first in "]}":
            depth -= 1


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        message = "an object of the body names a member twice"
        raise _not_json(message)
    return members


def _refuse_constant(_text: str) -> NoReturn:
    message = "the body holds NaN or Infinity, which JSON has not"
    raise _not_json(message)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        message = "the body holds a number that is too large"
        raise _not_json(message)
    return number


def _explain(error: ValidationError) -> str:
    """Return the faults by place and kind, with nothing that the caller wrote: neither values nor member names."""
    faults = []
    for fault in error.errors(include_input=False, include_url=False, include_context=False)[:_MAX_FAULTS]:
        if fault["type"] == "extra_forbidden":
            faults.append("a member is not known")
        else:
            place = ".".join(str(part) for part in fault["loc"]) or "the body"
            faults.append(f"{place}: {fault['msg']}")
    return "; ".join(faults)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant, parse_float=_finite
)


def _not_json(detail: str) -> HttpRefusedError:
    return HttpRefusedError(WebCode.BODY_NOT_JSON, detail)


def _too_large(max_bytes: int) -> HttpRefusedError:
    message = f"a body has at most {max_bytes} bytes"
    return HttpRefusedError(WebCode.BODY_TOO_LARGE, message, headers={"Connection": "close"})

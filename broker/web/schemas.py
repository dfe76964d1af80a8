"""What `POST /v1/resolve` takes and gives. The answer is written by hand: this is the hot path, and values leave here.

Every other module holds values as `SecretValue`; this one is where they become text.
"""

import base64
import json
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

from broker.cache.remembered import LeaseFacts
from broker.resolution.results import Granted, Previous, Refused, Resolution
from broker.secret import Encoding, SecretValue
from broker.web.answer import rfc3339
from broker.web.problems import refused_result


class ResolveRequest(BaseModel):
    """The body of `POST /v1/resolve`. How many references it may name is the use case's to say."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, allow_inf_nan=False)

    references: Annotated[list[str], FailFast()]
    require: Literal["all", "any"] = "all"
    max_age: Annotated[float, Field(ge=0, le=86_400)] | None = None
    min_versions: dict[str, Annotated[int, Field(ge=1, le=2**31)]] = Field(default_factory=dict)
    previous: bool = False

    @model_validator(mode="after")
    def _versions_of_what_is_asked(self) -> Self:
        if not self.min_versions.keys() <= set(self.references):
            message = "min_versions names a reference that is not asked for"
            raise ValueError(message)
        return self


def resolution_body(resolution: Resolution) -> bytes:
    """Return the answer's JSON: one object a reference, in the order asked."""
    return f'{{"results":[{",".join([_result(result) for result in resolution.results])}]}}'.encode()


def resolution_parts(resolution: Resolution) -> list[bytes]:
    """Return the same in parts, of which no copy is made, for what is large."""
    parts = [b'{"results":[']
    for result in resolution.results:
        parts += (_result(result).encode(), b",")
    parts[-1] = b"]}"
    return parts


def _result(result: Granted | Refused) -> str:
    return _granted(result) if isinstance(result, Granted) else _refused(result)


def _granted(result: Granted) -> str:
    quote = encode_basestring_ascii
    clocks = _clocks(result.version, result.fetched_at, result.fresh_until, result.stale_until)
    return (
        f'{{"reference":{quote(result.reference)},"status":"{result.status}","value":{_value(result.value)},'
        f'"encoding":"{result.value.encoding}",{clocks},"lease":{_lease(result.lease)}{_previous(result.previous)}}}'
    )


# All fields of one reading have the same clocks. The process may keep the text: it hangs on the arguments alone.
@lru_cache(maxsize=4096)
def _clocks(version: str | None, fetched_at: float, fresh_until: float, stale_until: float) -> str:
    return (
        f'"version":{"null" if version is None else encode_basestring_ascii(version)},'
        f'"fetched_at":"{rfc3339(fetched_at)}","fresh_until":"{rfc3339(fresh_until)}",'
        f'"stale_until":"{rfc3339(stale_until)}"'
    )


def _previous(previous: Previous | None) -> str:
    if previous is None:
        return ""
    return (
        f',"previous":{{"value":{_value(previous.value)},"encoding":"{previous.value.encoding}",'
        f'"version":{encode_basestring_ascii(previous.version)},"until":"{rfc3339(previous.until)}"}}'
    )


def _lease(lease: LeaseFacts | None) -> str:
    if lease is None:
        return "null"
    renewable = "true" if lease.renewable else "false"
    return f'{{"id":"{lease.id}","expires_at":"{rfc3339(lease.expires_at)}","renewable":{renewable}}}'


def _refused(result: Refused) -> str:
    return json.dumps(refused_result(result), separators=(",", ":"))


def _value(value: SecretValue) -> str:
    if value.encoding is Encoding.TEXT:
        return encode_basestring_ascii(value.reveal().decode("utf-8"))
    if value.encoding is Encoding.BASE64:
        return f'"{base64.b64encode(value.reveal()).decode("ascii")}"'
    # It is JSON already; parsing it again would change how numbers are written.
    return value.reveal().decode("utf-8")

"""Expectations of a policy: a file that says what has to be allowed and what denied, read strictly. Pure."""

from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from broker import strict_yaml
from broker.errors import DocumentInvalidError, MalformedReferenceError, ScopeRefusedError
from broker.pattern import Pattern
from broker.policy.decision import Allow, Context, Decision, DenyReason
from broker.reference import Reference, parse
from broker.scope import parse_scope

ALLOWED: Final = "allowed"
DENIED: Final = "denied"
# The age of a secret is known only after it was read.
_EXPECTED: Final = (ALLOWED, DENIED, *(reason for reason in DenyReason if reason is not DenyReason.AGE))
_WHAT: Final = "the expectations"


def moment(text: object) -> float:
    """Return the seconds since the epoch of an RFC 3339 time; without an offset UTC is meant, as in policies.

    Raises:
        ValueError: It is no time.

    """
    try:
        parsed = datetime.fromisoformat(str(text))
    except ValueError:
        message = "no time; write it as 2026-01-05T09:00:00Z"
        raise ValueError(message) from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _reference(text: object) -> Reference:
    try:
        return parse(str(text))
    except MalformedReferenceError as error:
        message = f"character {error.position + 1} of the reference: {error.detail}"
        raise ValueError(message) from None


def _scope(text: object) -> tuple[Pattern, ...]:
    try:
        return parse_scope(str(text))
    except ScopeRefusedError as error:
        raise ValueError(error.detail) from None


def _address(text: object) -> IPv4Address | IPv6Address:
    try:
        return ip_address(str(text))
    except ValueError:
        message = "no IP address"
        raise ValueError(message) from None


def _expected(text: str) -> str:
    if text not in _EXPECTED:
        message = f"write one of {', '.join(_EXPECTED)}"
        raise ValueError(message)
    return text


class Expectation(BaseModel):
    """One line of the file: who asks for what, in which circumstances, and what policy has to answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True)

    identity: str
    reference: Annotated[Reference, BeforeValidator(_reference)]
    expect: Annotated[str, AfterValidator(_expected)]
    address: Annotated[IPv4Address | IPv6Address, BeforeValidator(_address)] = IPv4Address("127.0.0.1")
    at: Annotated[float, BeforeValidator(moment)] | None = None
    scope: Annotated[tuple[Pattern, ...], BeforeValidator(_scope)] | None = None

    def context(self, *, now: float) -> Context:
        """Return the circumstances; `now` counts where the file names no time."""
        return Context(address=self.address, now=now if self.at is None else self.at, scope=self.scope)

    def is_met(self, decision: Decision) -> bool:
        """Tell whether `decision` is what is expected."""
        if isinstance(decision, Allow):
            return self.expect == ALLOWED
        return self.expect in (DENIED, decision.reason)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    expectations: tuple[Expectation, ...]


def parse_expectations(text: bytes) -> tuple[tuple[int, Expectation], ...]:
    """Return each expectation with the line that it begins in.

    Raises:
        DocumentInvalidError: The file can't be used; names line, column and what to do.

    """
    document = strict_yaml.read(text, what=_WHAT)
    try:
        found = _File.model_validate(document.data).expectations
    except ValidationError as error:
        raise _invalid(error, document) from None
    if not found:
        message = f"{_WHAT}: empty; write at least one"
        raise DocumentInvalidError(message, line=1, column=1)
    return tuple((document.place(("expectations", index))[0], each) for index, each in enumerate(found))


def _invalid(error: ValidationError, document: strict_yaml.Document) -> DocumentInvalidError:
    first = min(
        error.errors(include_url=False, include_input=False), key=lambda each: (each["type"] == "missing", each["loc"])
    )
    line, column = document.place(first["loc"])
    name = ".".join(str(step + 1) if isinstance(step, int) else step for step in first["loc"])
    return DocumentInvalidError(f"{_WHAT}: {name}: {_words(first)}", line=line, column=column)


def _words(fault: ErrorDetails) -> str:
    match fault["type"]:
        case "extra_forbidden":
            known = _File.model_fields if len(fault["loc"]) == 1 else Expectation.model_fields
            return f"unknown key; the keys here are {', '.join(known)}"
        case "missing":
            return "missing; add it"
        case "value_error":
            return fault["msg"].removeprefix("Value error, ")
        case _:
            return "not usable here; write a list of mappings under expectations, each value as text"

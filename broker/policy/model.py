"""What a policy file may say: the strict schema. `policy/parse.py` reads files by it."""

import re
from collections.abc import Callable, Collection
from functools import partial
from typing import Annotated, Final, LiteralString, NoReturn, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from broker import strict_yaml
from broker.duration import parse_duration
from broker.errors import MalformedPatternError
from broker.identity import IdentityKind
from broker.pattern import Pattern, parse_pattern
from broker.policy.conditions import Conditions, Hours, Network, parse_day, parse_hours, parse_network
from broker.policy.subjects import Subject, parse_dns, parse_fingerprint, parse_spiffe

T = TypeVar("T")
C = TypeVar("C", bound=Collection[object])

EVERYONE: Final = "*"
# The type of the errors whose text is this module's own.
REFUSAL: Final = "policy"
_MAX_NETWORKS: Final = 256
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_MAX_RULE_NAME: Final = 200


def _refuse(message: str) -> NoReturn:
    # The message goes in as a field, because braces in it would be taken for fields.
    kind: LiteralString = REFUSAL
    raise PydanticCustomError(kind, "{message}", {"message": message})


def _text(value: object) -> str:
    if not isinstance(value, str):
        _refuse("a list or a mapping where text belongs; write one value")
    return value


def _parsed(parse: Callable[[str], T], value: object) -> T:
    try:
        return parse(_text(value))
    except MalformedPatternError as error:
        _refuse(f"character {error.position + 1} of the pattern: {error.detail}")
    except ValueError as error:
        _refuse(str(error))


def _name(value: object) -> str:
    text = _text(value)
    if _NAME.fullmatch(text) is None:
        _refuse("no name; use 1 to 63 of a-z, 0-9 and -, the first a letter")
    if strict_yaml.is_ambiguous(text):
        _refuse("other readers of YAML take this name for a truth value or for nothing; choose another")
    return text


def _rule_name(value: object) -> str:
    text = _text(value)
    if not text.strip() or len(text) > _MAX_RULE_NAME or not text.isprintable():
        _refuse(f"no rule name; use 1 to {_MAX_RULE_NAME} printable characters that say what the rule is for")
    if strict_yaml.is_ambiguous(text):
        _refuse("other readers of YAML take this rule name for a number, a date, a truth value or nothing; use words")
    return text


def _age(value: object) -> float:
    seconds = _parsed(parse_duration, value)
    if seconds <= 0:
        _refuse("an age of 0, which no secret has; write a longer one, such as 90d")
    return seconds


def _recipient(value: object) -> str:
    return EVERYONE if value == EVERYONE else _name(value)


def _not_empty(value: C) -> C:
    # Not by `min_length`, which also complains about a list whose only entry was refused already.
    if not value:
        _refuse("empty; write at least one")
    return value


def _not_too_many(value: tuple[Network, ...]) -> tuple[Network, ...]:
    if len(value) > _MAX_NETWORKS:
        _refuse(f"more than {_MAX_NETWORKS}; join them, or split the rule")
    return _not_empty(value)


def _required(value: object) -> bool:
    if value != "required":
        _refuse("write token: required, or leave it out")
    return True


Name = Annotated[str, PlainValidator(_name)]
RuleName = Annotated[str, PlainValidator(_rule_name)]
Duration = Annotated[float, PlainValidator(partial(_parsed, parse_duration))]
PatternField = Annotated[Pattern, PlainValidator(partial(_parsed, parse_pattern))]
NetworkField = Annotated[Network, PlainValidator(partial(_parsed, parse_network))]
Day = Annotated[int, PlainValidator(partial(_parsed, parse_day))]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class EnvironmentModel(_Part):
    """What belongs to one environment and is out of reach for every other."""

    owns: Annotated[tuple[PatternField, ...], AfterValidator(_not_empty)]


class IdentityModel(_Part):
    """Which certificates an identity has, and where it belongs."""

    spiffe: Annotated[str, PlainValidator(partial(_parsed, parse_spiffe))] | None = None
    dns: Annotated[str, PlainValidator(partial(_parsed, parse_dns))] | None = None
    fingerprint: Annotated[str, PlainValidator(partial(_parsed, parse_fingerprint))] | None = None
    environment: Name | None = None

    @model_validator(mode="after")
    def _names_one_kind(self) -> Self:
        if len([kind for kind in (self.spiffe, self.dns, self.fingerprint) if kind is not None]) != 1:
            _refuse("an identity needs exactly one of spiffe, dns, fingerprint")
        return self

    def subject(self, name: str) -> Subject:
        """Return the entry that this is under `name`."""
        kind, pattern = next(
            (kind, pattern)
            for kind, pattern in (
                (IdentityKind.SPIFFE, self.spiffe),
                (IdentityKind.DNS, self.dns),
                (IdentityKind.FINGERPRINT, self.fingerprint),
            )
            if pattern is not None
        )
        return Subject(name=name, kind=kind, pattern=pattern, environment=self.environment)


class WhenModel(_Part):
    """The conditions of a rule."""

    networks: Annotated[tuple[NetworkField, ...], AfterValidator(_not_too_many)] | None = None
    hours: Annotated[Hours, PlainValidator(partial(_parsed, parse_hours))] | None = None
    days: Annotated[tuple[Day, ...], AfterValidator(_not_empty)] | None = None
    token: Annotated[bool, PlainValidator(_required)] = False
    environment: Annotated[tuple[Name, ...], AfterValidator(_not_empty)] | None = None
    younger_than: Annotated[float, PlainValidator(_age)] | None = None

    def conditions(self) -> Conditions:
        """Return the conditions in the form in which they are asked."""
        return Conditions(
            networks=self.networks,
            hours=self.hours,
            days=self.days,
            token=self.token,
            environments=self.environment,
            younger_than=self.younger_than,
        )


class RuleModel(_Part):
    """One rule, as it stands in the file."""

    name: RuleName
    allow: Annotated[tuple[PatternField, ...], AfterValidator(_not_empty)] | None = None
    deny: Annotated[tuple[PatternField, ...], AfterValidator(_not_empty)] | None = None
    to: Annotated[tuple[Annotated[str, PlainValidator(_recipient)], ...], AfterValidator(_not_empty)]
    when: WhenModel = WhenModel()
    fresh_for: Duration | None = None
    max_stale: Duration | None = None

    @model_validator(mode="after")
    def _has_one_effect(self) -> Self:
        if (self.allow is None) == (self.deny is None):
            _refuse("a rule needs exactly one of allow and deny")
        if self.deny is not None and not (self.fresh_for is None and self.max_stale is None):
            _refuse("a deny rule takes no fresh_for and no max_stale: nothing is served by it; remove them")
        if self.deny is not None and self.when.younger_than is not None:
            _refuse("a deny rule takes no younger_than: policy refuses before it reads; put it in the allow rule")
        if self.deny is None and EVERYONE in self.to:
            _refuse('an allow rule names its identities; "*" is for deny rules')
        if EVERYONE in self.to and len(self.to) > 1:
            _refuse('"*" is everyone; remove the other names')
        return self

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """Return what the rule speaks about."""
        return self.allow or self.deny or ()


class PolicyModel(_Part):
    """The whole file."""

    environments: dict[Name, EnvironmentModel] = {}
    identities: Annotated[dict[Name, IdentityModel], AfterValidator(_not_empty)]
    administrators: Annotated[tuple[Name, ...], AfterValidator(_not_empty)] | None = None
    rules: Annotated[tuple[RuleModel, ...], AfterValidator(_not_empty)]

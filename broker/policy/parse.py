"""Read a policy file: strict YAML, then the schema, then what the parts must mean to each other."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Final, NoReturn

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from broker import strict_yaml
from broker.errors import DocumentInvalidError, PolicyInvalidError
from broker.identity import IdentityKind
from broker.policy.model import EVERYONE, REFUSAL, EnvironmentModel, IdentityModel, PolicyModel, RuleModel, WhenModel
from broker.strict_yaml import Document

# A hundred thousand rules take about ten megabytes.
MAX_POLICY_BYTES: Final = 16 * 1_048_576
# Compiled, a rule stands once for each pair of an identity and a pattern.
MAX_GRANTS: Final = 2_000_000
_WHAT: Final = "the policy"
_WORDS: Final = {
    "missing": "missing; add it",
    "tuple_type": "no list; write one, such as [first, second]",
    "dict_type": "no mapping; write key: value",
    "model_type": "no mapping; write key: value",
}
_KEYS: Final[Mapping[str, type[BaseModel]]] = {
    "": PolicyModel,
    "environments": EnvironmentModel,
    "identities": IdentityModel,
    "rules": RuleModel,
    "when": WhenModel,
}


def parse_policy(text: str | bytes) -> PolicyModel:
    """Return what the policy file says.

    Raises:
        PolicyInvalidError: It can't be used; names the line, the column and what to do.

    """
    try:
        document = strict_yaml.read(text, what=_WHAT, max_bytes=MAX_POLICY_BYTES)
    except DocumentInvalidError as error:
        raise PolicyInvalidError(error.detail, line=error.line, column=error.column) from None
    if document.data == {}:
        _refuse(document, (), "empty; it needs identities and rules")
    try:
        model = PolicyModel.model_validate(document.data)
    except ValidationError as error:
        raise _schema_error(error, document) from None
    _check_identities(model, document)
    _check_administrators(model, document)
    _check_rules(model, document)
    return model


def _check_identities(model: PolicyModel, document: Document) -> None:
    seen: dict[tuple[IdentityKind, str], str] = {}
    for name, identity in model.identities.items():
        path = ("identities", name)
        subject = identity.subject(name)
        first = seen.setdefault((subject.kind, subject.pattern), name)
        if first != name:
            _refuse(document, (*path, subject.kind.value), f"{first} has the same certificates; keep one of the two")
        if model.environments and identity.environment is not None and identity.environment not in model.environments:
            _refuse(
                document,
                (*path, "environment"),
                f"{identity.environment} is not declared; add it under environments, or correct it",
            )


def _check_administrators(model: PolicyModel, document: Document) -> None:
    for position, name in enumerate(model.administrators or ()):
        if name not in model.identities:
            _refuse(
                document,
                ("administrators", position),
                _undeclared(name, model.identities),
            )


def _check_rules(model: PolicyModel, document: Document) -> None:
    environments = {*model.environments, *(identity.environment for identity in model.identities.values())}
    names: dict[str, int] = {}
    grants = 0
    for index, rule in enumerate(model.rules):
        path = ("rules", index)
        if names.setdefault(rule.name, index) != index:
            line = document.place(("rules", names[rule.name], "name"))[0]
            _refuse(document, (*path, "name"), f"the rule in line {line} has the same name; rename one of the two")
        for position, name in enumerate(rule.to):
            if name != EVERYONE and name not in model.identities:
                _refuse(document, (*path, "to", position), _undeclared(name, model.identities))
            if rule.allow is not None and name in (model.administrators or ()):
                _refuse(
                    document,
                    (*path, "to", position),
                    f"{name} is an administrator, who reads no secrets; give it another identity for that",
                )
        for position, name in enumerate(rule.when.environment or ()):
            if name not in environments:
                _refuse(
                    document,
                    (*path, "when", "environment", position),
                    f"no identity belongs to {name}, and it is not declared; correct it",
                )
        grants += len(rule.to) * len(rule.patterns)
        if grants > MAX_GRANTS:
            _refuse(document, path, f"more than {MAX_GRANTS:,} pairs of an identity and a pattern; use wildcards")


def _undeclared(name: str, known: Iterable[str]) -> str:
    return f"{name} is not declared; {_did_you_mean(name, known)}add it under identities, or correct it"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}? " if close else ""


def _refuse(document: Document, path: strict_yaml.Path, message: str) -> NoReturn:
    line, column = document.place(path)
    detail = f"{_WHAT}: {_shown(path)}{message}"
    raise PolicyInvalidError(detail, line=line, column=column)


def _schema_error(error: ValidationError, document: Document) -> PolicyInvalidError:
    """Return the error that stands first in the file, and how many follow.

    What is missing comes last: a misspelt key is the likelier cause, and is told by its place.
    """
    found = sorted(
        ((_place(detail, document), detail) for detail in error.errors(include_url=False, include_input=False)),
        key=lambda item: (item[1]["type"] == "missing", item[0]),
    )
    (line, column), first = found[0]
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    return PolicyInvalidError(f"{_WHAT}: {_shown(first['loc'])}{_words(first)}{more}", line=line, column=column)


def _place(detail: ErrorDetails, document: Document) -> strict_yaml.Place:
    path = detail["loc"]
    is_about_key = detail["type"] == "extra_forbidden" or path[-1:] == ("[key]",)
    return document.key_place(path) if is_about_key else document.place(path)


def _shown(path: Iterable[str | int]) -> str:
    steps = [f"[{step + 1}]" if isinstance(step, int) else f".{step}" for step in path if step != "[key]"]
    return f"{''.join(steps).removeprefix('.')[:200]}: " if steps else ""


def _words(detail: ErrorDetails) -> str:
    if detail["type"] == REFUSAL:
        return detail["msg"]
    if detail["type"] == "extra_forbidden":
        known = list(_known_keys(detail["loc"]))
        return f"unknown key; {_did_you_mean(str(detail['loc'][-1]), known)}the keys here are {', '.join(known)}"
    return _WORDS.get(detail["type"], "not usable here")


def _known_keys(path: tuple[str | int, ...]) -> Iterable[str]:
    part = str(path[0]) if len(path) > 1 else ""
    is_condition = part == "rules" and path[2] == "when"
    return _KEYS["when" if is_condition else part].model_fields

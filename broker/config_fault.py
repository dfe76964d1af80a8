"""What a fault of the settings is called, and what to do about it: for people who mistyped, not for programmers."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Final, get_args

from pydantic import BaseModel

from broker.finding import Finding, Severity

_SEE: Final = "see docs/configuration.md"
_UNITS: Final = {"_bytes": "bytes", "_seconds": "seconds", "_per_second": "requests in a second"}
_NUMBERS: Final = frozenset({"int_parsing", "int_type", "int_from_float", "float_parsing", "float_type"})
_CLOSE: Final = 0.75


def fault(kind: str, message: str, *, where: str, place: Sequence[str], model: type[BaseModel]) -> Finding:
    """Return the finding for one error of pydantic.

    Args:
        kind: The type of the error.
        message: What pydantic says, which holds no input.
        where: The place in words.
        place: The names that lead to it in `model`.
        model: The settings that were validated.

    """
    name = place[-1] if place else ""
    match kind:
        case "extra_forbidden":
            return Finding(code="setting_unknown", where=where, why="no such setting", fix=_rename(place, model))
        case "missing":
            return Finding(code="setting_missing", where=where, why="is missing and has no default", fix="set it")
        case _ if kind in _NUMBERS:
            unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), None)
            fix = f"write the number of {unit}, without a unit" if unit else "write a number, without quotes"
            return Finding(code="setting_invalid", where=where, why="is no number that fits here", fix=fix)
        case _:
            why = message.removeprefix("Value error, ").replace("Input should be", "it should be", 1)
            return Finding(code="setting_invalid", where=where, why=why, fix=_SEE)


def unknown_variables(environment: Mapping[str, str], model: type[BaseModel], *, prefix: str) -> Iterator[Finding]:
    """Find variables that look like settings and set nothing, which nobody else would ever notice.

    Agents' variables and other programs' begin so too, hence only what is nearly a setting's name is told.
    """
    known = {name.upper(): name for name in model.model_fields}
    for variable in sorted(environment):
        if not variable.upper().startswith(prefix):
            continue
        section, nested, rest = variable.upper().removeprefix(prefix).partition("__")
        if section in known:
            continue
        close = get_close_matches(section, known, n=1, cutoff=_CLOSE)
        if not close and not nested:
            continue
        fix = f"did you mean {prefix}{close[0]}{nested}{rest}?" if close else f"remove it, or correct it; {_SEE}"
        why = "sets nothing: there is no such setting"
        yield Finding(code="variable_unknown", where=variable, why=why, fix=fix, severity=Severity.WARNING)


def _rename(place: Sequence[str], model: type[BaseModel]) -> str:
    *above, name = place
    siblings = list(_fields(model, above))
    if close := get_close_matches(name, siblings, n=1, cutoff=0.6):
        return f"did you mean {close[0]}?"
    elsewhere = [".".join(path) for path in _paths(model) if path[-1] == name]
    if len(elsewhere) == 1:
        return f"did you mean {elsewhere[0]}, which belongs there?"
    return f"remove it, or correct it to one of {', '.join(siblings)}" if siblings else f"remove it; {_SEE}"


def _fields(model: type[BaseModel], path: Sequence[str]) -> Sequence[str]:
    for name in path:
        field = model.model_fields.get(name)
        inner = None if field is None else next(_models(field.annotation), None)
        if inner is None:
            return ()
        model = inner
    return list(model.model_fields)


def _paths(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        yield (*above, name)
        for inner in _models(field.annotation):
            yield from _paths(inner, (*above, name))


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)

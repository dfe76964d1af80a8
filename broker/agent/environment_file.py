"""`broker exec --env-file`: lines of NAME=TEXT, where the text is a reference, a template, or stands for itself.

The dialect is small on purpose: no quotes, no `export`, no expansion but `${reference}`, one variable a line.
"""

import re
from pathlib import Path
from typing import Final

from broker.agent.template import SCHEMES, Template, TemplateInvalidError, parse_template
from broker.agent.text_file import read_text
from broker.errors import MalformedReferenceError
from broker.reference import parse

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def read_environment_file(file: Path) -> dict[str, Template]:
    """Return the template of each variable that `file` names.

    Raises:
        TemplateInvalidError: The file can't be read, or a line of it is no NAME=TEXT; names the line.

    """
    found: dict[str, Template] = {}
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        stripped = line.removesuffix("\r").strip(" \t")
        if not stripped or stripped.startswith("#"):
            continue
        name, template = _variable(stripped, f"{file}: line {number}")
        if name in found:
            message = f"{file}: line {number}: the variable {name} is set twice"
            raise TemplateInvalidError(message)
        found[name] = template
    return found


def variable_template(text: str) -> Template:
    """Return the template of a variable's text; a whole reference with its scheme needs no `${ }`.

    Raises:
        TemplateInvalidError: It looks like a reference or a template, and is none.

    """
    try:
        if text.startswith(SCHEMES) and "${" not in text:
            return Template((parse(text),))
        return parse_template(text)
    except MalformedReferenceError as error:
        message = f"at character {error.position + 1}: {error.detail}"
    except TemplateInvalidError as error:
        message = f"at character {error.column}: {error.reason}"
    raise TemplateInvalidError(message)


def _variable(line: str, where: str) -> tuple[str, Template]:
    name, equals, text = line.partition("=")
    if not equals or _NAME.match(name) is None:
        message = f"{where}: a line is NAME=TEXT without spaces around the =, or a comment after #"
        raise TemplateInvalidError(message)
    if text[:1] in {'"', "'"}:
        message = f"{where}: a text has no quotes around it; everything after the = belongs to it"
        raise TemplateInvalidError(message)
    if "\0" in text:
        message = f"{where}: a NUL, which no environment can hold"
        raise TemplateInvalidError(message)
    try:
        return name, variable_template(text)
    except TemplateInvalidError as error:
        message = f"{where}: {name}: {error.detail}"
        raise TemplateInvalidError(message) from None

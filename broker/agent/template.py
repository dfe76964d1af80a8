"""Templates on the agent's side: text with `${reference}` in it, and `$${` for a literal `${`.

Between the braces stands a variable's name or a reference with its scheme, and nothing else: no default, no
expression, no second brace. The broker gets the references and never the text around them. What a reference
resolved to is put in as it is and never read again, whatever it looks like.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from broker.errors import BrokerError, MalformedReferenceError
from broker.reference import Reference, parse
from broker.secret import Encoding, SecretValue

_OPENING: Final = re.compile(r"\$?\$\{")
_LITERAL: Final = "$${"
SCHEMES: Final = ("vault:", "bao:", "env:", "file:")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class TemplateInvalidError(BrokerError):
    """A template can't be read, or not be filled; `line` and `column` count from 1, 0 when it is no one place.

    `reason` is the detail without the place.
    """

    code = "template_invalid"

    def __init__(self, detail: str, *, line: int = 0, column: int = 0) -> None:
        """Keep where the template went wrong."""
        super().__init__(f"line {line}, column {column}: {detail}" if line else detail)
        self.reason = detail
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Template:
    """A text cut at its references; `pieces` are literal text and references in their order."""

    pieces: tuple[str | Reference, ...]

    @property
    def references(self) -> tuple[str, ...]:
        """Return each reference once, in its canonical spelling and in the order of the text."""
        return tuple(dict.fromkeys(piece.text for piece in self.pieces if isinstance(piece, Reference)))

    def fill(self, values: Mapping[str, SecretValue]) -> SecretValue:
        """Return the text with every reference replaced by its value, which makes it a secret too.

        Args:
            values: A value for each of `references`.

        Raises:
            TemplateInvalidError: A value is missing, or is binary and can't stand in text.

        """
        return SecretValue(b"".join(self._filled(values)), encoding=Encoding.TEXT)

    def _filled(self, values: Mapping[str, SecretValue]) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, str):
                yield piece.encode("utf-8")
                continue
            value = values.get(piece.text)
            if value is None:
                message = f"there is no value for {piece.text}"
                raise TemplateInvalidError(message)
            if value.encoding is Encoding.BASE64:
                message = f"the value of {piece.text} is binary and can't stand in text"
                raise TemplateInvalidError(message)
            yield value.reveal()


def parse_template(text: str) -> Template:
    """Return the template that `text` is.

    Raises:
        TemplateInvalidError: A `${` is not closed or holds no reference, or the text is no valid Unicode.

    """
    pieces: list[str | Reference] = []
    for piece in scan(text):
        if isinstance(piece.content, TemplateInvalidError):
            raise piece.content
        if piece.content != "":
            pieces.append(piece.content)
    return Template(tuple(pieces))


@dataclass(frozen=True, slots=True)
class Piece:
    """Literal text, a reference, or what is wrong, at the characters `start` to `end` of a text."""

    content: str | Reference | TemplateInvalidError
    start: int
    end: int


def scan(text: str) -> Iterator[Piece]:
    """Yield the pieces of a template in their order, and go on behind what is wrong."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        yield Piece(_invalid("the text is no valid Unicode", text, error.start), error.start, len(text))
        return
    end = 0
    while (opening := _OPENING.search(text, end)) is not None:
        start = opening.start()
        yield Piece(text[end:start], end, start)
        end = opening.end()
        if opening[0] == _LITERAL:
            yield Piece("${", start, end)
            continue
        line_end = text.find("\n", end)
        closing = text.find("}", end, len(text) if line_end < 0 else line_end)
        if closing < 0:
            message = "this ${ is not closed in its line; a literal ${ is written $${"
            yield Piece(_invalid(message, text, start), start, end)
            continue
        try:
            yield Piece(_reference(text, end, closing), start, closing + 1)
        except TemplateInvalidError as error:
            yield Piece(error, start, closing + 1)
        end = closing + 1
    yield Piece(text[end:], end, len(text))


def _reference(text: str, start: int, end: int) -> Reference:
    inner = text[start:end]
    if inner.startswith(SCHEMES):
        spelled = inner
    elif _NAME.match(inner):
        spelled = f"env:{inner}"
    else:
        message = (
            "between ${ and } stands a variable's name or a reference with its scheme, "
            "as in ${NAME} or ${vault:mount/path#field}; a literal ${ is written $${"
        )
        raise _invalid(message, text, start)
    try:
        return parse(spelled)
    except MalformedReferenceError as error:
        # A name has no scheme in the text, so its place is that much further to the left.
        at = start + max(error.position - (len(spelled) - len(inner)), 0)
        raise _invalid(error.detail, text, at) from None


def _invalid(detail: str, text: str, at: int) -> TemplateInvalidError:
    line, column = place_of(text, at)
    return TemplateInvalidError(detail, line=line, column=column)


def place_of(text: str, at: int) -> tuple[int, int]:
    """Return line and column of character `at`, counted from 1."""
    return text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1

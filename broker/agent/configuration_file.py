"""A configuration file with references in it: what stands there, and what is wrong with it.

A reference in `${ }` is filled by `broker render`. One that stands alone, such as `api_key: vault:secret/app#key`, is
for a program that asks the broker itself; it is found by its scheme, outside of comments.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from broker.agent.template import TemplateInvalidError, place_of, scan
from broker.errors import MalformedReferenceError
from broker.reference import Reference, parse

# Before it nothing that makes it the end of a word, a path or an address; `env:` and `file:` are words of other
# languages too, so they need a name and an absolute path behind them.
_BARE: Final = re.compile(r"(?<![\w/$.:{-])(?:(?:vault|bao):|env:(?=[A-Z_])|file:(?=/(?!/)))[^\s\"'`,;\])}]+")
_COMMENT: Final = re.compile(r"(?:^|\s)#|^\s*(?://|;)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A reference of a file, or what is wrong with it, and where; `is_bare` when it stands outside of `${ }`."""

    reference: Reference | None
    fault: str
    line: int
    column: int
    is_bare: bool


def mentions(text: str) -> Iterator[Mention]:
    """Yield what stands in `${ }`, and then the references that stand alone, each in the order of the text."""
    taken: set[int] = set()
    for piece in scan(text):
        if isinstance(piece.content, str):
            continue
        taken.update(range(piece.start, piece.end))
        line, column = place_of(text, piece.start)
        if isinstance(piece.content, TemplateInvalidError):
            fault = piece.content
            yield Mention(reference=None, fault=fault.reason, line=fault.line, column=fault.column, is_bare=False)
        else:
            yield Mention(reference=piece.content, fault="", line=line, column=column, is_bare=False)
    for found in _BARE.finditer(text):
        if found.start() not in taken and not _is_comment(text, found.start()):
            yield _bare(text, found)


def _bare(text: str, found: re.Match[str]) -> Mention:
    try:
        reference = parse(found[0])
    except MalformedReferenceError as error:
        line, column = place_of(text, found.start() + error.position)
        return Mention(reference=None, fault=error.detail, line=line, column=column, is_bare=True)
    line, column = place_of(text, found.start())
    return Mention(reference=reference, fault="", line=line, column=column, is_bare=True)


def _is_comment(text: str, at: int) -> bool:
    return _COMMENT.search(text[text.rfind("\n", 0, at) + 1 : at]) is not None

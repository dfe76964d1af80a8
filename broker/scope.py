"""OAuth scopes: patterns of references as a client asks for them, and as a token says them (RFC 6749 §3.3). Pure."""

from typing import Final
from urllib.parse import quote, unquote

from broker.errors import MalformedPatternError, ScopeRefusedError
from broker.pattern import Pattern, parse_pattern

MAX_SCOPE_CHARACTERS: Final = 4096
MAX_SCOPE_PATTERNS: Final = 64
# RFC 6749 §3.3 allows neither space, quote nor backslash in a scope token; these need no escape.
_SCOPE_SAFE: Final = "-._~:/#?=&@!$()*+,;"


def parse_scope(text: str) -> tuple[Pattern, ...]:
    """Return the patterns of an OAuth scope (RFC 6749 §3.3): one pattern a token, percent-encoded once.

    Raises:
        ScopeRefusedError: It is empty, too long, or one of its tokens is no pattern in its one spelling.

    """
    if not text:
        message = "the scope is empty, which would grant nothing; name the references that the token is for"
        raise ScopeRefusedError(message)
    tokens = text.split(" ")
    if len(text) > MAX_SCOPE_CHARACTERS or len(tokens) > MAX_SCOPE_PATTERNS:
        message = f"a scope has at most {MAX_SCOPE_CHARACTERS} characters and {MAX_SCOPE_PATTERNS} patterns"
        raise ScopeRefusedError(message)
    patterns: dict[str, Pattern] = {}
    for number, token in enumerate(tokens, start=1):
        pattern = _scope_token(token, number)
        patterns[pattern.text] = pattern
    return tuple(patterns.values())


def format_scope(patterns: tuple[Pattern, ...]) -> str:
    """Return the OAuth scope of `patterns`."""
    return " ".join(quote(pattern.text, safe=_SCOPE_SAFE) for pattern in patterns)


def _scope_token(token: str, number: int) -> Pattern:
    text = unquote(token, errors="replace")
    try:
        # Printed again it has to be the same, so that one pattern has one spelling and nothing hides in an escape.
        if quote(text, safe=_SCOPE_SAFE) == token:
            pattern = parse_pattern(text)
            if pattern.text == text:
                return pattern
            message = f"pattern {number} of the scope is not in its canonical spelling"
            raise ScopeRefusedError(message)
    except (MalformedPatternError, UnicodeEncodeError):
        pass
    message = f"pattern {number} of the scope is no pattern of references in its canonical spelling"
    raise ScopeRefusedError(message)

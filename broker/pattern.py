"""Patterns over references: what policy rules and token scopes are made of. Pure.

Being written; see the contract.
"""

from dataclasses import dataclass

from broker.reference import Reference


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern in its canonical spelling `text`."""

    scheme: str
    segments: tuple[str, ...]
    pointer: tuple[str, ...]
    version: int | None
    parameters: tuple[tuple[str, str], ...]
    text: str

    def covers_reference(self, reference: Reference) -> bool:
        """Tell whether everything that `reference` reveals lies within this pattern (for allow, for scope)."""
        raise NotImplementedError

    def touches_reference(self, reference: Reference) -> bool:
        """Tell whether anything that `reference` reveals lies within this pattern (for deny)."""
        raise NotImplementedError

    def covers_pattern(self, other: "Pattern") -> bool:
        """Tell whether every reference that `other` covers is covered by this pattern."""
        raise NotImplementedError


def parse_pattern(text: str) -> Pattern:
    """Return the pattern. Raises: MalformedPatternError."""
    raise NotImplementedError


def parse_scope(text: str) -> tuple[Pattern, ...]:
    """Return the patterns of an OAuth scope string (standards §1.9). Raises: ScopeRefusedError."""
    raise NotImplementedError


def format_scope(patterns: tuple[Pattern, ...]) -> str:
    """Return the OAuth scope string of `patterns`."""
    raise NotImplementedError

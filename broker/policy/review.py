"""Say who may read what: each identity of a policy with its rules, or who gets anything of one reference. Pure.

It looks at what is written and not at one moment, so conditions are told and not asked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from broker.policy.conditions import ALL_DAYS, Conditions
from broker.policy.engine import Policy
from broker.policy.rule import Rule
from broker.policy.subjects import Subject
from broker.reference import Reference


class Verdict(StrEnum):
    """Whether an identity gets a reference, or a part of it."""

    ALWAYS = "always"
    SOMETIMES = "sometimes"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """What one rule says to one identity; `conditions` are words, empty when it always counts."""

    rule: str
    effect: str
    patterns: tuple[str, ...]
    conditions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry under `identities`.

    Attributes:
        name: Its name in the policy.
        certificates: Which certificates it is.
        environment: Where it belongs.
        administrator: Whether it gives orders, and so reads nothing.
        clauses: The rules about it, in file order; with a reference those that touch it.
        walled_by: Environments that own the reference and are not its own; none without a reference.
        verdict: Whether it gets the reference; None without one.

    """

    name: str
    certificates: str
    environment: str | None
    administrator: bool
    clauses: tuple[Clause, ...]
    walled_by: tuple[str, ...] = ()
    verdict: Verdict | None = None


def review(policy: Policy, *, reference: Reference | None = None) -> tuple[Entry, ...]:
    """Return each identity of `policy` with what its rules say, about `reference` or about everything."""
    return tuple(_entry(policy, subject, reference) for subject in policy.subjects)


def _entry(policy: Policy, subject: Subject, reference: Reference | None) -> Entry:
    administrator = subject.name in policy.administrators
    rules = [rule for rule in policy.rules if rule.concerns(subject) and _possible(rule, subject)]
    walled_by: tuple[str, ...] = ()
    verdict = None
    if reference is not None:
        rules = [rule for rule in rules if _touches(rule, reference)]
        walled_by = policy.foreign_owners(reference, subject)
        verdict = Verdict.NEVER if administrator or walled_by else _verdict(rules, reference)
    return Entry(
        name=subject.name,
        certificates=subject.pattern,
        environment=subject.environment,
        administrator=administrator,
        clauses=tuple(_clause(rule, reference) for rule in rules),
        walled_by=walled_by,
        verdict=verdict,
    )


def _possible(rule: Rule, subject: Subject) -> bool:
    """Tell whether the one condition that never changes for an identity lets the rule count."""
    environments = rule.conditions.environments
    if environments is None:
        return True
    if subject.environment is None:
        # What can't be evaluated counts against the one who asks.
        return not rule.allows
    return subject.environment in environments


def _touches(rule: Rule, reference: Reference) -> bool:
    return any(pattern.touches_reference(reference) for pattern in rule.patterns)


def _verdict(rules: list[Rule], reference: Reference) -> Verdict:
    """Return what the rules say together; who gets a field gets a part of the secret, which is not never."""
    denying = [rule for rule in rules if not rule.allows]
    allowing = [rule for rule in rules if rule.allows]
    covered = any(
        not _conditions(rule.conditions) and any(pattern.covers_reference(reference) for pattern in rule.patterns)
        for rule in denying
    )
    if not allowing or covered:
        return Verdict.NEVER
    whole = any(
        not _conditions(rule.conditions) and any(pattern.covers_reference(reference) for pattern in rule.patterns)
        for rule in allowing
    )
    return Verdict.ALWAYS if whole and not denying else Verdict.SOMETIMES


def _clause(rule: Rule, reference: Reference | None) -> Clause:
    return Clause(
        rule=rule.name,
        effect="allow" if rule.allows else "deny",
        patterns=tuple(
            pattern.text for pattern in rule.patterns if reference is None or pattern.touches_reference(reference)
        ),
        conditions=tuple(_conditions(rule.conditions)),
    )


def _conditions(conditions: Conditions) -> list[str]:
    return list(_words(conditions))


def _words(conditions: Conditions) -> Iterator[str]:
    if conditions.networks is not None:
        yield f"from {', '.join(map(str, conditions.networks))}"
    if conditions.hours is not None:
        (from_hour, from_minute), (to_hour, to_minute) = (divmod(minute, 60) for minute in conditions.hours)
        yield f"{from_hour:02}:{from_minute:02}-{to_hour:02}:{to_minute:02} UTC"
    if conditions.days is not None:
        yield f"on {', '.join(ALL_DAYS[day] for day in conditions.days)}"
    if conditions.token:
        yield "with a token"
    if conditions.younger_than is not None:
        yield f"when the secret is younger than {conditions.younger_than / 86_400:g} days"

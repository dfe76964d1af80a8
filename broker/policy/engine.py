"""Decide who may read what: a policy file, compiled at load so that its size does not slow a decision.

Default is no. A wall between environments goes before every rule, a deny rule before every allow rule,
and what can't be evaluated counts against the one who asks.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from broker.identity import PeerIdentity
from broker.pattern import Pattern
from broker.policy.conditions import Conditions
from broker.policy.decision import Allow, Context, Decision, Deny, DenyReason
from broker.policy.index import PatternIndex
from broker.policy.model import EVERYONE, PolicyModel
from broker.policy.parse import parse_policy
from broker.policy.subjects import Ambiguous, Subject, SubjectIndex
from broker.reference import Reference

DEFAULT_FRESH_FOR: Final = 300.0
DEFAULT_MAX_STALE: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule; `order` is its place in the file, from 0, and the clocks are in seconds."""

    order: int
    name: str
    allows: bool
    patterns: tuple[Pattern, ...]
    to: tuple[str, ...]
    conditions: Conditions
    fresh_for: float
    max_stale: float

    def concerns(self, subject: Subject) -> bool:
        """Tell whether the rule speaks about `subject`."""
        return subject.name in self.to or EVERYONE in self.to

    def matches(self, reference: Reference) -> bool:
        """Tell whether the rule speaks about `reference`: all of it to allow, any of it to deny."""
        if self.allows:
            return any(pattern.covers_reference(reference) for pattern in self.patterns)
        return any(pattern.touches_reference(reference) for pattern in self.patterns)

    def takes_effect(self, context: Context, *, environment: str | None) -> bool:
        """Tell whether the conditions let the rule count; what can't be evaluated denies and does not allow."""
        holds = self.conditions.hold(context, environment=environment)
        return holds is True if self.allows else holds is not False


class Policy:
    """One policy file, compiled. Immutable: a reload makes another one."""

    def __init__(
        self,
        *,
        rules: tuple[Rule, ...],
        subjects: Iterable[Subject],
        owned: Mapping[str, tuple[Pattern, ...]],
        digest: str,
    ) -> None:
        """Index the parts of a policy; `owned` is what each environment owns."""
        self.rules = rules
        self.digest = digest
        self.rule_count = len(rules)
        self._subjects = SubjectIndex(subjects)
        self._walls: PatternIndex[str] = PatternIndex()
        for environment, patterns in owned.items():
            for pattern in patterns:
                self._walls.add(pattern, environment)
        self._by_recipient = _index_rules(rules)

    def decide(self, *, identity: PeerIdentity, reference: Reference, context: Context) -> Decision:
        """Return whether `identity` may resolve `reference` in this context, and by or against which rule."""
        subject = self._subjects.find(identity)
        if subject is None:
            return Deny(DenyReason.UNKNOWN_IDENTITY)
        if isinstance(subject, Ambiguous):
            return Deny(DenyReason.AMBIGUOUS_IDENTITY)
        if self.foreign_owners(reference, subject):
            return Deny(DenyReason.ENVIRONMENT)
        if denying := self._denying(reference, subject, context):
            return Deny(DenyReason.DENY_RULE, min(denying, key=_order).name)
        if not within_scope(reference, context):
            return Deny(DenyReason.SCOPE)
        return self._allowed(reference, subject, context)

    def subject_of(self, identity: PeerIdentity) -> Subject | Ambiguous | None:
        """Return the entry of the file that `identity` is."""
        return self._subjects.find(identity)

    def recognises(self, identity: PeerIdentity) -> bool:
        """Tell whether `identity` is exactly one entry of the file."""
        return isinstance(self._subjects.find(identity), Subject)

    def environment_of(self, identity: PeerIdentity) -> str | None:
        """Return the environment of `identity`, None if it has none or is not recognised."""
        subject = self._subjects.find(identity)
        return subject.environment if isinstance(subject, Subject) else None

    def grants(self, identity: PeerIdentity) -> tuple[Pattern, ...]:
        """Return what the allow rules of `identity` speak about, each pattern once, in file order.

        This bounds the scope of a token. It is no permission: walls, deny rules and conditions are asked at each use.
        """
        subject = self._subjects.find(identity)
        if not isinstance(subject, Subject) or subject.name not in self._by_recipient:
            return ()
        return tuple(self._by_recipient[subject.name].grants)

    def foreign_owners(self, reference: Reference, subject: Subject) -> tuple[str, ...]:
        """Return the environments, other than that of `subject`, which own any of what `reference` reveals."""
        owners = {
            environment
            for pattern, environment in self._walls.touching(reference)
            if environment != subject.environment and pattern.touches_reference(reference)
        }
        return tuple(sorted(owners))

    def _denying(self, reference: Reference, subject: Subject, context: Context) -> list[Rule]:
        return [
            rule
            for recipient in (subject.name, EVERYONE)
            if recipient in self._by_recipient
            for pattern, rule in self._by_recipient[recipient].deny.touching(reference)
            if pattern.touches_reference(reference) and rule.takes_effect(context, environment=subject.environment)
        ]

    def _allowed(self, reference: Reference, subject: Subject, context: Context) -> Decision:
        if subject.name not in self._by_recipient:
            return Deny(DenyReason.NO_RULE)
        matching = [
            rule
            for pattern, rule in self._by_recipient[subject.name].allow.covering(reference)
            if pattern.covers_reference(reference)
        ]
        if not matching:
            return Deny(DenyReason.NO_RULE)
        counting = [rule for rule in matching if rule.takes_effect(context, environment=subject.environment)]
        if not counting:
            return Deny(DenyReason.CONDITION)
        return Allow(
            rule=min(counting, key=_order).name,
            fresh_for=min(rule.fresh_for for rule in counting),
            max_stale=min(rule.max_stale for rule in counting),
        )


def compile_policy(text: str | bytes) -> Policy:
    """Return the policy that a file says.

    Raises:
        PolicyInvalidError: It can't be used; names the line, the column and what to do.

    """
    model = parse_policy(text)
    return Policy(
        rules=_rules(model),
        subjects=[identity.subject(name) for name, identity in model.identities.items()],
        owned={name: environment.owns for name, environment in model.environments.items()},
        digest=hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest(),
    )


def within_scope(reference: Reference, context: Context) -> bool:
    """Tell whether the presented token, if any, covers `reference`; an empty scope covers nothing."""
    return context.scope is None or any(pattern.covers_reference(reference) for pattern in context.scope)


def _rules(model: PolicyModel) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            order=order,
            name=rule.name,
            allows=rule.allow is not None,
            patterns=rule.patterns,
            to=tuple(dict.fromkeys(rule.to)),
            conditions=rule.when.conditions(),
            fresh_for=DEFAULT_FRESH_FOR if rule.fresh_for is None else rule.fresh_for,
            max_stale=DEFAULT_MAX_STALE if rule.max_stale is None else rule.max_stale,
        )
        for order, rule in enumerate(model.rules)
    )


@dataclass(slots=True)
class _Recipient:
    """What the rules say about one identity, or about everyone."""

    allow: PatternIndex[Rule] = field(default_factory=PatternIndex)
    deny: PatternIndex[Rule] = field(default_factory=PatternIndex)
    grants: dict[Pattern, None] = field(default_factory=dict)


def _index_rules(rules: Iterable[Rule]) -> Mapping[str, _Recipient]:
    """Index the rules by recipient and pattern.

    Rules that differ in name and clocks alone come together, so that no number of them slows a decision: the
    first gives the name, the shortest the clocks.
    """
    together: dict[tuple[str, bool, Pattern, Conditions], Rule] = {}
    for rule in rules:
        for recipient in rule.to:
            for pattern in rule.patterns:
                key = (recipient, rule.allows, pattern, rule.conditions)
                first = together.setdefault(key, rule)
                if rule.fresh_for < first.fresh_for or rule.max_stale < first.max_stale:
                    together[key] = replace(
                        first,
                        fresh_for=min(first.fresh_for, rule.fresh_for),
                        max_stale=min(first.max_stale, rule.max_stale),
                    )
    index: dict[str, _Recipient] = {}
    for (name, allows, pattern, _conditions), rule in together.items():
        recipient_index = index.setdefault(name, _Recipient())
        if allows:
            recipient_index.allow.add(pattern, rule)
            recipient_index.grants[pattern] = None
        else:
            recipient_index.deny.add(pattern, rule)
    return index


def _order(rule: Rule) -> int:
    return rule.order

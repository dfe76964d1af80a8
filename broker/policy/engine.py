"""Decide who may read what: a policy file, compiled at load so that its size does not slow a decision.

Default is no. A wall between environments goes before every rule, a deny rule before every allow rule,
and what can't be evaluated counts against the one who asks.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from broker.identity import PeerIdentity
from broker.pattern import Pattern
from broker.policy.conditions import UNCONDITIONAL, Conditions
from broker.policy.decision import Context, Decision, Deny, DenyReason
from broker.policy.index import PatternIndex
from broker.policy.model import EVERYONE, PolicyModel
from broker.policy.parse import parse_policy
from broker.policy.rule import Case, Effects, Rule, by_order
from broker.policy.subjects import Ambiguous, Subject, SubjectIndex
from broker.reference import Reference

DEFAULT_FRESH_FOR: Final = 300.0
DEFAULT_MAX_STALE: Final = 3600.0
_MAX_CASES: Final = 8192


class Policy:
    """One policy file, compiled. Immutable: a reload makes another one."""

    def __init__(
        self,
        *,
        rules: tuple[Rule, ...],
        subjects: Iterable[Subject],
        owned: Mapping[str, tuple[Pattern, ...]],
        digest: str,
        administrators: Iterable[str] = (),
    ) -> None:
        """Index the parts of a policy; `owned` is what each environment owns, `administrators` name subjects."""
        self.rules = rules
        self.digest = digest
        self.rule_count = len(rules)
        self.subjects = tuple(subjects)
        self.administrators = frozenset(administrators)
        self._subjects = SubjectIndex(self.subjects)
        self._walls: PatternIndex[str] = PatternIndex()
        for environment, patterns in owned.items():
            for pattern in patterns:
                self._walls.add(pattern, environment)
        self._by_recipient = _index_rules(rules)
        # What the file says about a subject and a reference never changes, and agents ask the same again and again.
        self._cases: dict[tuple[str, str], Case] = {}

    def decide(self, *, identity: PeerIdentity, reference: Reference, context: Context) -> Decision:
        """Return whether `identity` may resolve `reference` in this context, and by or against which rule."""
        [decision] = self.decide_all(identity=identity, references=(reference,), context=context)
        return decision

    def decide_all(
        self, *, identity: PeerIdentity, references: Sequence[Reference], context: Context
    ) -> list[Decision]:
        """Return the decision about each of `references`, all of one request and so of one context."""
        subject = self._subjects.find(identity)
        if subject is None:
            return [Deny(DenyReason.UNKNOWN_IDENTITY)] * len(references)
        if isinstance(subject, Ambiguous):
            return [Deny(DenyReason.AMBIGUOUS_IDENTITY)] * len(references)
        if subject.name in self.administrators:
            return [Deny(DenyReason.ADMINISTRATOR)] * len(references)
        effects = Effects(context, environment=subject.environment)
        return [self._case(reference, subject).decide(reference, effects) for reference in references]

    def gives_any_of(self, *, identity: PeerIdentity, reference: Reference) -> bool:
        """Tell whether `identity` may have any part of `reference` in some circumstances.

        This is for what it has got already, in circumstances that nobody knows any more. It is no permission.
        """
        subject = self._subjects.find(identity)
        if not isinstance(subject, Subject) or subject.name in self.administrators:
            return False
        walled = any(
            environment != subject.environment and pattern.covers_reference(reference)
            for pattern, environment in self._walls.touching(reference)
        )
        denied = any(
            rule.conditions == UNCONDITIONAL and any(pattern.covers_reference(reference) for pattern in rule.patterns)
            for rule in self._denying(reference, subject)
        )
        if walled or denied or subject.name not in self._by_recipient:
            return False
        found = self._by_recipient[subject.name].allow.touching(reference)
        return any(pattern.covers_source(reference.source) for pattern, _ in found)

    def subject_of(self, identity: PeerIdentity) -> Subject | Ambiguous | None:
        """Return the entry of the file that `identity` is."""
        return self._subjects.find(identity)

    def recognises(self, identity: PeerIdentity) -> bool:
        """Tell whether `identity` is exactly one entry of the file."""
        return isinstance(self._subjects.find(identity), Subject)

    def administers(self, identity: PeerIdentity) -> bool:
        """Tell whether `identity` may give orders to the broker; it never resolves a reference."""
        subject = self._subjects.find(identity)
        return isinstance(subject, Subject) and subject.name in self.administrators

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
        if subject.name in self.administrators:
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

    def _case(self, reference: Reference, subject: Subject) -> Case:
        key = (subject.name, reference.text)
        case = self._cases.get(key)
        if case is None:
            if len(self._cases) >= _MAX_CASES:
                self._cases.clear()
            case = self._cases[key] = Case(
                foreign=bool(self.foreign_owners(reference, subject)),
                denying=self._denying(reference, subject),
                allowing=self._allowing(reference, subject),
            )
        return case

    def _denying(self, reference: Reference, subject: Subject) -> tuple[Rule, ...]:
        found = (
            rule
            for recipient in (subject.name, EVERYONE)
            if recipient in self._by_recipient
            for pattern, rule in self._by_recipient[recipient].deny.touching(reference)
            if pattern.touches_reference(reference)
        )
        return tuple(sorted(found, key=by_order))

    def _allowing(self, reference: Reference, subject: Subject) -> tuple[Rule, ...]:
        if subject.name not in self._by_recipient:
            return ()
        found = (
            rule
            for pattern, rule in self._by_recipient[subject.name].allow.covering(reference)
            if pattern.covers_reference(reference)
        )
        return tuple(sorted(found, key=by_order))


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
        administrators=model.administrators or (),
        digest=hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest(),
    )


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

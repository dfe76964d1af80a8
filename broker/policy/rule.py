"""One rule of a policy, and what the rules say about one subject and one reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from broker.pattern import Pattern
from broker.policy.conditions import UNCONDITIONAL, Conditions
from broker.policy.decision import Allow, Context, Decision, Deny, DenyReason
from broker.policy.model import EVERYONE
from broker.policy.subjects import Subject
from broker.reference import Reference


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


class Effects:
    """Which rules take effect in one context; each rule's conditions are asked once."""

    __slots__ = ("_answers", "_environment", "context")

    def __init__(self, context: Context, *, environment: str | None) -> None:
        """Begin with nothing asked; `environment` is the subject's."""
        self.context = context
        self._environment = environment
        self._answers: dict[int, bool] = {}

    def of(self, rule: Rule) -> bool:
        """Tell whether `rule` takes effect."""
        answer = self._answers.get(rule.order)
        if answer is None:
            answer = self._answers[rule.order] = rule.takes_effect(self.context, environment=self._environment)
        return answer


class Case:
    """What the rules say about one subject and one reference, before a context is asked. Rules in file order."""

    __slots__ = ("_allowing", "_conditional", "_denying", "_foreign", "_when_all_count")

    def __init__(self, *, foreign: bool, denying: tuple[Rule, ...], allowing: tuple[Rule, ...]) -> None:
        """Keep the rules; `foreign` when another environment owns any of the reference."""
        self._foreign = foreign
        self._denying = denying
        self._allowing = allowing
        self._when_all_count = _allowed_by(allowing)
        # Most rules have no conditions, and then there is nothing left to ask.
        self._conditional = any(rule.conditions != UNCONDITIONAL for rule in allowing)

    def decide(self, reference: Reference, effects: Effects) -> Decision:
        """Return the decision about `reference`, which this case is about."""
        if self._foreign:
            return Deny(DenyReason.ENVIRONMENT)
        for rule in self._denying:
            if effects.of(rule):
                return Deny(DenyReason.DENY_RULE, rule.name)
        if not within_scope(reference, effects.context):
            return Deny(DenyReason.SCOPE)
        if not self._conditional:
            return self._when_all_count
        counting = [rule for rule in self._allowing if effects.of(rule)]
        if len(counting) == len(self._allowing):
            return self._when_all_count
        return _allowed_by(counting) if counting else Deny(DenyReason.CONDITION)


def _allowed_by(rules: Sequence[Rule]) -> Decision:
    """Return what allow rules that all count decide together: the first gives the name, the shortest the clocks."""
    if not rules:
        return Deny(DenyReason.NO_RULE)
    # One rule is enough, so that of the ages the widest counts, and the rule that has it.
    widest = max(rules, key=_age_limit)
    return Allow(
        rule=widest.name,
        fresh_for=min(rule.fresh_for for rule in rules),
        max_stale=min(rule.max_stale for rule in rules),
        younger_than=widest.conditions.younger_than,
    )


def _age_limit(rule: Rule) -> float:
    younger_than = rule.conditions.younger_than
    return math.inf if younger_than is None else younger_than


def within_scope(reference: Reference, context: Context) -> bool:
    """Tell whether the presented token, if any, covers `reference`; an empty scope covers nothing."""
    return context.scope is None or any(pattern.covers_reference(reference) for pattern in context.scope)


def by_order(rule: Rule) -> int:
    """Sort rules as the file has them."""
    return rule.order

"""Say why a decision is what it is: every rule of the file, and why it did or did not count."""

from dataclasses import dataclass
from enum import StrEnum

from broker.identity import PeerIdentity
from broker.policy.decision import Context, Decision
from broker.policy.engine import Policy
from broker.policy.rule import Rule, within_scope
from broker.policy.subjects import Ambiguous, Subject
from broker.reference import Reference


class Outcome(StrEnum):
    """What became of one rule."""

    COUNTS = "counts"
    OTHER_IDENTITY = "other_identity"
    OTHER_REFERENCE = "other_reference"
    CONDITION = "condition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One rule, whether it counts, and why in words."""

    rule: str
    effect: str
    outcome: Outcome
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One decision and everything that bears on it.

    Attributes:
        decision: What `Policy.decide` answers.
        entry: The entry under `identities` that the peer is, None if it is none or nobody knows which.
        environment: Where the entry belongs.
        foreign_owners: Environments that own the reference and are not that of the entry.
        within_scope: Whether the presented token covers the reference; true without a token.
        findings: One for each rule, in file order.

    """

    decision: Decision
    entry: str | None
    environment: str | None
    foreign_owners: tuple[str, ...]
    within_scope: bool
    findings: tuple[Finding, ...]


def explain(policy: Policy, *, identity: PeerIdentity, reference: Reference, context: Context) -> Explanation:
    """Return why `policy` decides as it does, from a look at each rule of its own."""
    found = policy.subject_of(identity)
    subject = None if isinstance(found, Ambiguous) else found
    return Explanation(
        decision=policy.decide(identity=identity, reference=reference, context=context),
        entry=None if subject is None else subject.name,
        environment=None if subject is None else subject.environment,
        foreign_owners=() if subject is None else policy.foreign_owners(reference, subject),
        within_scope=within_scope(reference, context),
        findings=tuple(_finding(rule, subject, reference, context) for rule in policy.rules),
    )


def _finding(rule: Rule, subject: Subject | None, reference: Reference, context: Context) -> Finding:
    outcome, why = _outcome(rule, subject, reference, context)
    return Finding(rule=rule.name, effect="allow" if rule.allows else "deny", outcome=outcome, why=why)


def _outcome(rule: Rule, subject: Subject | None, reference: Reference, context: Context) -> tuple[Outcome, str]:
    if subject is None or not rule.concerns(subject):
        return Outcome.OTHER_IDENTITY, f"it is for {', '.join(rule.to)}"
    if not rule.matches(reference):
        what = "no pattern of it covers the reference" if rule.allows else "no pattern of it touches the reference"
        return Outcome.OTHER_REFERENCE, what
    conditions = _conditions(rule, subject, context)
    if not rule.takes_effect(context, environment=subject.environment):
        return Outcome.CONDITION, conditions
    return Outcome.COUNTS, conditions or "it has no conditions"


def _conditions(rule: Rule, subject: Subject, context: Context) -> str:
    words = {True: "holds", False: "does not hold", None: "can not be evaluated"}
    answers = rule.conditions.answers(context, environment=subject.environment)
    told = [f"{name} {words[answer]}" for name, answer in answers.items()]
    if rule.conditions.younger_than is not None:
        told.append(f"younger_than {rule.conditions.younger_than / 86_400:g} days is asked of the secret that is read")
    return ", ".join(told)

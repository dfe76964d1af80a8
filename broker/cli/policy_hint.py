"""What was probably meant, when a question to a policy has an answer that surprises."""

from difflib import get_close_matches

from broker.policy.decision import Deny, DenyReason
from broker.policy.engine import Policy
from broker.policy.explain import Explanation
from broker.reference import Reference


def hint_for(policy: Policy, explanation: Explanation, *, name: str, reference: Reference) -> str | None:
    """Return what to look at for a denial that a typing error may have caused, None when there is nothing."""
    match explanation.decision:
        case Deny(DenyReason.UNKNOWN_IDENTITY):
            return _identity(policy, name)
        case Deny(DenyReason.NO_RULE):
            patterns = {
                pattern.text
                for rule in policy.rules
                if rule.allows and explanation.entry in rule.to
                for pattern in rule.patterns
            }
            close = get_close_matches(reference.text, sorted(patterns), n=1, cutoff=0.8)
            return f"{explanation.entry} may read {close[0]}" if close else None
        case _:
            return None


def _identity(policy: Policy, name: str) -> str | None:
    for subject in policy.subjects:
        if subject.name == name:
            return f"{name} is an entry of the policy; --identity is the name in a certificate: {subject.pattern}"
    certificates = [subject.pattern for subject in policy.subjects]
    close = get_close_matches(name, certificates, n=1, cutoff=0.8)
    return f"the policy knows {close[0]}" if close else None

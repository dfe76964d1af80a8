"""Properties of decisions: the compiled policy answers as a look at every rule, by definition, would."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.identity import IdentityKind, PeerIdentity
from broker.pattern import Pattern, parse_pattern
from broker.policy import index
from broker.policy.conditions import Conditions, parse_network
from broker.policy.decision import Allow, Context, Decision, Deny, DenyReason
from broker.policy.engine import Policy
from broker.policy.explain import Outcome, explain
from broker.policy.rule import Rule
from broker.policy.subjects import Subject
from broker.reference import Reference, parse

SUBJECTS = (
    Subject(name="one", kind=IdentityKind.SPIFFE, pattern="spiffe://a.example/x", environment="production"),
    Subject(name="many", kind=IdentityKind.SPIFFE, pattern="spiffe://a.example/*", environment="staging"),
    Subject(name="deep", kind=IdentityKind.SPIFFE, pattern="spiffe://a.example/**/y", environment=None),
    Subject(name="host", kind=IdentityKind.DNS, pattern="host.example", environment="production"),
)
# The last is matched by two entries, the one before by none.
NAMES = ("spiffe://a.example/x", "spiffe://a.example/z", "host.example", "other.example", "spiffe://a.example/y")

SEGMENT = st.sampled_from(["a", "b"])
WILD = st.sampled_from(["a", "b", "*", "**"])


def _paths(segment: st.SearchStrategy[str], least: int) -> st.SearchStrategy[str]:
    return st.lists(segment, min_size=least, max_size=4).map("/".join)


def _fields(segment: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.just(""), segment.map("#{}".format), st.tuples(segment, segment).map(lambda two: f"#/{two[0]}/{two[1]}")
    )


def _few_wildcards(text: str) -> bool:
    return text.count("**") <= 3


QUERIES = st.sampled_from(["", "", "", "?version=1", "?version=2", "?ttl=1h", "?ttl=*"])
references: st.SearchStrategy[Reference] = st.one_of(
    st.sampled_from(["env:A", "env:B", "file:/a", "file:/a/b"]),
    st.builds(
        "vault:{}{}{}".format,
        _paths(SEGMENT, 2),
        QUERIES.filter(lambda query: "*" not in query),
        _fields(SEGMENT),
    ),
).map(parse)
patterns: st.SearchStrategy[Pattern] = st.one_of(
    st.sampled_from(["env:A", "env:*", "file:/**", "file:/a", "file:/*/b", "vault:**"]),
    st.builds("vault:{}{}{}".format, _paths(WILD, 2), QUERIES, _fields(WILD)).filter(_few_wildcards),
).map(parse_pattern)
conditions = st.builds(
    Conditions,
    networks=st.sampled_from([None, None, (parse_network("10.0.0.0/8"),)]),
    hours=st.sampled_from([None, None, (0, 600)]),
    token=st.sampled_from([False, False, True]),
    environments=st.sampled_from([None, None, ("production",)]),
)
contexts = st.builds(
    Context,
    address=st.sampled_from(["10.0.0.1", "::ffff:10.0.0.1", "127.0.0.1"]).map(ip_address),
    now=st.sampled_from([0.0, 50_000.0, float("nan")]),
    scope=st.one_of(st.none(), st.lists(patterns, max_size=3).map(tuple)),
)


@st.composite
def rule_lists(draw: st.DrawFn) -> tuple[Rule, ...]:
    rules = []
    for order in range(draw(st.integers(0, 12))):
        allows = draw(st.booleans())
        names = st.lists(st.sampled_from(["one", "many", "deep", "host"]), min_size=1, max_size=3, unique=True)
        rules.append(
            Rule(
                order=order,
                name=f"rule {order}",
                allows=allows,
                patterns=tuple(draw(st.lists(patterns, min_size=1, max_size=3))),
                to=tuple(draw(names if allows else st.one_of(names, st.just(["*"])))),
                conditions=draw(conditions),
                fresh_for=draw(st.sampled_from([0.0, 30.0, 300.0])),
                max_stale=draw(st.sampled_from([0.0, 60.0, 3600.0])),
            )
        )
    return tuple(rules)


owned = st.dictionaries(
    st.sampled_from(["production", "staging"]), st.lists(patterns, min_size=1, max_size=2).map(tuple), max_size=2
)
identities = st.sampled_from(NAMES).map(
    lambda name: PeerIdentity(
        kind=IdentityKind.SPIFFE if name.startswith("spiffe") else IdentityKind.DNS,
        name=name,
        thumbprint="t",
        not_before=0,
        not_after=1,
    )
)
UNCONDITIONED: Any = {"conditions": Conditions(), "fresh_for": 0, "max_stale": 0}
ENTRIES = dict(zip(NAMES[:3], (SUBJECTS[0], SUBJECTS[1], SUBJECTS[3]), strict=True))


@pytest.fixture(params=[0, 8], autouse=True, ids=["fields indexed", "fields listed"])
def _both_forms_of_the_index(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_FEW", request.param)


def compiled(rules: tuple[Rule, ...], walls: dict[str, tuple[Pattern, ...]]) -> Policy:
    return Policy(rules=rules, subjects=SUBJECTS, owned=walls, digest="")


def by_definition(
    rules: tuple[Rule, ...],
    walls: dict[str, tuple[Pattern, ...]],
    identity: PeerIdentity,
    reference: Reference,
    context: Context,
) -> Decision:
    """Decide with one look at every rule, without any index."""
    if identity.name == NAMES[4]:
        return Deny(DenyReason.AMBIGUOUS_IDENTITY)
    if identity.name not in ENTRIES:
        return Deny(DenyReason.UNKNOWN_IDENTITY)
    subject = ENTRIES[identity.name]
    for environment, own in walls.items():
        if environment != subject.environment and any(pattern.touches_reference(reference) for pattern in own):
            return Deny(DenyReason.ENVIRONMENT)
    mine = [rule for rule in rules if {subject.name, "*"} & set(rule.to)]
    for rule in mine:
        holds = rule.conditions.hold(context, environment=subject.environment)
        touches = any(pattern.touches_reference(reference) for pattern in rule.patterns)
        if not rule.allows and touches and holds is not False:
            return Deny(DenyReason.DENY_RULE, rule.name)
    if context.scope is not None and not any(pattern.covers_reference(reference) for pattern in context.scope):
        return Deny(DenyReason.SCOPE)
    return allowed_by_definition([rule for rule in mine if rule.allows], subject, reference, context)


def allowed_by_definition(rules: list[Rule], subject: Subject, reference: Reference, context: Context) -> Decision:
    covering = [rule for rule in rules if any(pattern.covers_reference(reference) for pattern in rule.patterns)]
    counting = [rule for rule in covering if rule.conditions.hold(context, environment=subject.environment) is True]
    if not counting:
        return Deny(DenyReason.CONDITION if covering else DenyReason.NO_RULE)
    fresh_for, max_stale = min(rule.fresh_for for rule in counting), min(rule.max_stale for rule in counting)
    return Allow(counting[0].name, fresh_for=fresh_for, max_stale=max_stale)


@settings(max_examples=200, deadline=None)
@given(rule_lists(), owned, identities, references, contexts)
def decides_as_defined(
    rules: tuple[Rule, ...],
    walls: dict[str, tuple[Pattern, ...]],
    identity: PeerIdentity,
    reference: Reference,
    context: Context,
) -> None:
    policy = compiled(rules, walls)
    decision = policy.decide(identity=identity, reference=reference, context=context)
    assert decision == by_definition(rules, walls, identity, reference, context)


def test_the_compiled_policy_decides_as_a_linear_scan() -> None:
    decides_as_defined()


@settings(max_examples=100, deadline=None)
@given(st.lists(patterns, min_size=1, max_size=40), references)
def index_misses_nothing(many: list[Pattern], reference: Reference) -> None:
    rule = Rule(order=0, name="all", allows=True, patterns=tuple(many), to=("one",), **UNCONDITIONED)
    rules = (rule, replace(rule, order=1, name="none", allows=False))
    recipient = compiled(rules, {})._by_recipient["one"]
    covering = {pattern.text for pattern in many if pattern.covers_reference(reference)}
    touching = {pattern.text for pattern in many if pattern.touches_reference(reference)}
    assert covering <= {pattern.text for pattern, _ in recipient.allow.covering(reference)}
    assert touching <= {pattern.text for pattern, _ in recipient.deny.touching(reference)}


def test_the_index_misses_no_pattern_that_matches() -> None:
    index_misses_nothing()


@settings(max_examples=100, deadline=None)
@given(rule_lists(), patterns, identities, references, contexts)
def deny_wins(
    rules: tuple[Rule, ...], pattern: Pattern, identity: PeerIdentity, reference: Reference, context: Context
) -> None:
    deny = Rule(order=len(rules), name="deny", allows=False, patterns=(pattern,), to=("*",), **UNCONDITIONED)
    before = compiled(rules, {}).decide(identity=identity, reference=reference, context=context)
    after = compiled((*rules, deny), {}).decide(identity=identity, reference=reference, context=context)
    if pattern.touches_reference(reference):
        assert isinstance(after, Deny)
    else:
        assert after == before


def test_a_deny_rule_more_denies_what_it_touches_and_changes_nothing_else() -> None:
    deny_wins()


@settings(max_examples=100, deadline=None)
@given(rule_lists(), owned, identities, references, contexts, st.lists(patterns, max_size=2))
def scope_narrows(
    rules: tuple[Rule, ...],
    walls: dict[str, tuple[Pattern, ...]],
    identity: PeerIdentity,
    reference: Reference,
    context: Context,
    more: list[Pattern],
) -> None:
    policy = compiled(rules, walls)
    narrow = replace(context, scope=context.scope or ())
    wide = replace(context, scope=(*narrow.scope, *more))
    if isinstance(policy.decide(identity=identity, reference=reference, context=narrow), Allow):
        assert any(pattern.covers_reference(reference) for pattern in narrow.scope)
        assert isinstance(policy.decide(identity=identity, reference=reference, context=wide), Allow)
    # Without rules that ask for a token, one that was presented gives nothing that there was not before.
    plain = compiled(tuple(replace(rule, conditions=replace(rule.conditions, token=False)) for rule in rules), walls)
    if isinstance(plain.decide(identity=identity, reference=reference, context=wide), Allow):
        without = replace(context, scope=None)
        assert isinstance(plain.decide(identity=identity, reference=reference, context=without), Allow)


def test_a_scope_narrows_and_never_widens() -> None:
    scope_narrows()


@settings(max_examples=150, deadline=None)
@given(rule_lists(), owned, identities, references, contexts)
def explanation_agrees(
    rules: tuple[Rule, ...],
    walls: dict[str, tuple[Pattern, ...]],
    identity: PeerIdentity,
    reference: Reference,
    context: Context,
) -> None:
    policy = compiled(rules, walls)
    found = explain(policy, identity=identity, reference=reference, context=context)
    assert found.decision == policy.decide(identity=identity, reference=reference, context=context)
    assert [finding.rule for finding in found.findings] == [rule.name for rule in rules]
    counting = [finding for finding in found.findings if finding.outcome is Outcome.COUNTS]
    denying = [finding.rule for finding in counting if finding.effect == "deny"]
    allowing = [finding.rule for finding in counting if finding.effect == "allow"]
    if found.entry is None or found.foreign_owners:
        assert isinstance(found.decision, Deny)
    elif denying:
        assert found.decision == Deny(DenyReason.DENY_RULE, denying[0])
    elif not found.within_scope:
        assert found.decision == Deny(DenyReason.SCOPE)
    elif allowing:
        assert isinstance(found.decision, Allow)
        assert found.decision.rule == allowing[0]
    else:
        close = any(f.outcome is Outcome.CONDITION and f.effect == "allow" for f in found.findings)
        assert found.decision == Deny(DenyReason.CONDITION if close else DenyReason.NO_RULE)


def test_the_explanation_agrees_with_the_decision() -> None:
    explanation_agrees()


@settings(max_examples=100, deadline=None)
@given(identities, references, contexts)
def nothing_without_rules(identity: PeerIdentity, reference: Reference, context: Context) -> None:
    assert isinstance(compiled((), {}).decide(identity=identity, reference=reference, context=context), Deny)


def test_without_rules_everything_is_denied() -> None:
    nothing_without_rules()

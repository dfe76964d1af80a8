"""`policy review` and `policy decide` say the same of who may read what."""

import itertools
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from broker.identity import identity_named
from broker.policy.decision import Allow, Context
from broker.policy.engine import Policy, compile_policy
from broker.policy.review import Entry, Verdict, review
from broker.reference import parse
from broker.scope import parse_scope

POLICY = """\
environments:
  production: { owns: ["vault:secret/prod/**"] }
  staging: { owns: ["vault:secret/staging/**"] }
identities:
  shipper: { spiffe: "spiffe://p.example/shipper", environment: production }
  night: { dns: night.example, environment: production }
  tester: { dns: tester.example, environment: staging }
  nowhere: { dns: nowhere.example }
  operator: { dns: operator.example }
  idle: { dns: idle.example }
administrators: [operator]
rules:
  - { name: all, allow: ["vault:secret/prod/a", "env:A"], to: [shipper, tester] }
  - name: nightly
    allow: ["vault:secret/prod/a#key"]
    to: [night]
    when: { hours: "22:00-06:00", networks: ["10.0.0.0/8"], days: [mon], token: required, younger_than: 90d }
  - { name: only here, allow: ["env:A"], to: [nowhere, night], when: { environment: [production] } }
  - { name: no root, deny: ["vault:secret/prod/a#root"], to: ["*"] }
  - { name: not by day, deny: ["vault:secret/prod/a#late"], to: [shipper], when: { hours: "06:00-22:00" } }
  - { name: no test, deny: ["env:A"], to: [tester], when: { environment: [staging] } }
"""


def entries(reference: str | None = None) -> dict[str, Entry]:
    policy = compile_policy(POLICY)
    return {entry.name: entry for entry in review(policy, reference=None if reference is None else parse(reference))}


def allowed_in(policy: Policy, entry: Entry, reference: str) -> Iterator[bool]:
    """Yield the decision in each of the circumstances that the rules tell apart."""
    times = (1767654000.0, 1767610800.0, 1767740400.0)  # Monday 23:00, Monday 11:00, Tuesday 23:00, UTC
    scopes = (None, parse_scope("vault:secret/prod/a env:A"))
    for address, now, scope in itertools.product(("10.0.0.1", "192.0.2.1"), times, scopes):
        context = Context(address=ip_address(address), now=now, scope=scope)
        decision = policy.decide(
            identity=identity_named(entry.certificates), reference=parse(reference), context=context
        )
        yield isinstance(decision, Allow)


@pytest.mark.parametrize(
    "reference",
    ["vault:secret/prod/a#key", "vault:secret/prod/a#root", "vault:secret/prod/a#late", "env:A", "vault:secret/b#x"],
)
def test_a_verdict_is_what_policy_decides_in_all_circumstances(reference: str) -> None:
    policy = compile_policy(POLICY)
    for entry in entries(reference).values():
        decided = list(allowed_in(policy, entry, reference))
        expected = Verdict.ALWAYS if all(decided) else Verdict.SOMETIMES if any(decided) else Verdict.NEVER
        assert entry.verdict is expected, (entry.name, reference)


def test_who_may_read_one_field_is_told_to_who_asks_about_the_secret() -> None:
    assert entries("vault:secret/prod/a")["night"].verdict is Verdict.SOMETIMES


def test_a_wall_an_administrator_and_an_idle_identity_are_told() -> None:
    found = entries("vault:secret/prod/a#key")
    assert found["tester"].walled_by == ("production",)
    assert (found["operator"].administrator, found["operator"].verdict) == (True, Verdict.NEVER)
    assert [clause.effect for clause in entries()["idle"].clauses] == ["deny"]


def test_conditions_are_told_in_words() -> None:
    (clause,) = (clause for clause in entries()["night"].clauses if clause.rule == "nightly")
    assert clause.conditions == (
        "from 10.0.0.0/8",
        "22:00-06:00 UTC",
        "on mon",
        "with a token",
        "when the secret is younger than 90 days",
    )


def test_a_rule_of_another_environment_says_nothing_to_an_identity() -> None:
    assert "only here" not in {clause.rule for clause in entries()["nowhere"].clauses}
    assert "only here" in {clause.rule for clause in entries()["night"].clauses}

"""The decisions, one test a rule, and that the compiled policy answers as a look at every rule does."""

import math
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from broker.identity import IdentityKind, PeerIdentity
from broker.pattern import parse_pattern
from broker.policy.conditions import UNCONDITIONAL
from broker.policy.current import CurrentPolicy
from broker.policy.decision import Allow, Context, Decision, Deny, DenyReason
from broker.policy.engine import Policy, compile_policy
from broker.policy.rule import Rule
from broker.policy.subjects import Subject
from broker.reference import parse

IDENTITIES = """\
identities:
  shipper: {spiffe: "spiffe://prod.example/logflux/*", environment: production}
  named: {spiffe: "spiffe://prod.example/logflux/special", environment: production}
  tester: {spiffe: "spiffe://test.example/**", environment: staging}
  left: {spiffe: "spiffe://two.example/*/a"}
  right: {spiffe: "spiffe://two.example/b/*"}
  host: {dns: host.example}
  device: {fingerprint: "sha256:FINGERPRINT", environment: production}
""".replace("FINGERPRINT", "ab" * 32)
SHIPPER = "spiffe://prod.example/logflux/one"


def peer(name: str = SHIPPER) -> PeerIdentity:
    kind = IdentityKind.SPIFFE if name.startswith("spiffe:") else IdentityKind.DNS
    kind = IdentityKind.FINGERPRINT if name.startswith("sha256:") else kind
    return PeerIdentity(kind=kind, name=name, thumbprint="t", not_before=0, not_after=1)


def policy(*rules: str, head: str = "") -> Policy:
    numbered = "".join(f"  - {{name: rule {number}, {rule}}}\n" for number, rule in enumerate(rules, start=1))
    return compile_policy(f"{head}{IDENTITIES}rules:\n{numbered}")


def decide(
    subject: Policy,
    reference: str,
    *,
    name: str = SHIPPER,
    address: str = "127.0.0.1",
    now: float = 0.0,
    scope: tuple[str, ...] | None = None,
) -> Decision:
    patterns = None if scope is None else tuple(parse_pattern(text) for text in scope)
    context = Context(address=ip_address(address), now=now, scope=patterns)
    return subject.decide(identity=peer(name), reference=parse(reference), context=context)


RULE = {
    "order": 0,
    "name": "first",
    "allows": True,
    "patterns": (parse_pattern("env:*"),),
    "to": ("shipper",),
    "conditions": UNCONDITIONAL,
    "fresh_for": 1.0,
    "max_stale": 1.0,
}
ALLOW_ALL = 'allow: ["vault:**", "env:*", "file:/**"], to: [shipper, named, tester, left, right, host, device]'


def test_what_an_allow_rule_covers_is_allowed_with_its_clocks() -> None:
    subject = policy('allow: ["vault:secret/logflux#*"], to: [shipper], fresh_for: 30s, max_stale: 2h')
    assert decide(subject, "vault:secret/logflux#api_key") == Allow("rule 1", fresh_for=30, max_stale=7200)


def test_the_clocks_are_five_minutes_and_an_hour_by_default() -> None:
    assert decide(policy('allow: ["env:A"], to: [shipper]'), "env:A") == Allow("rule 1", fresh_for=300, max_stale=3600)


def test_max_stale_zero_switches_serving_stale_off() -> None:
    subject = policy('allow: ["env:A"], to: [shipper], fresh_for: 0, max_stale: 0')
    assert decide(subject, "env:A") == Allow("rule 1", fresh_for=0, max_stale=0)


def test_every_spelling_of_a_reference_gets_the_same_answer() -> None:
    subject = policy('allow: ["env:A"], to: [shipper]')
    assert {decide(subject, text) for text in ("${A}", "$A", "$<A>", "env:A")} == {Allow("rule 1", 300, 3600)}


def test_what_no_rule_covers_is_denied() -> None:
    assert decide(policy('allow: ["env:A"], to: [shipper]'), "env:B") == Deny(DenyReason.NO_RULE)


def test_the_rule_of_another_identity_does_not_count() -> None:
    assert decide(policy('allow: ["env:A"], to: [tester]'), "env:A") == Deny(DenyReason.NO_RULE)


def test_the_whole_secret_is_not_covered_by_a_rule_about_its_fields() -> None:
    subject = policy('allow: ["vault:secret/logflux#api_key"], to: [shipper]')
    assert decide(subject, "vault:secret/logflux") == Deny(DenyReason.NO_RULE)


def test_an_unknown_identity_is_denied() -> None:
    for name in (
        "spiffe://prod.example/other",
        "spiffe://prod.example/logflux/a/b",
        "other.example",
        "sha256:" + "cd" * 32,
    ):
        assert decide(policy(ALLOW_ALL), "env:A", name=name) == Deny(DenyReason.UNKNOWN_IDENTITY)


def test_a_name_counts_only_as_the_kind_that_policy_says() -> None:
    disguised = PeerIdentity(
        kind=IdentityKind.DNS, name="sha256:" + "ab" * 32, thumbprint="t", not_before=0, not_after=1
    )
    assert not policy(ALLOW_ALL).recognises(disguised)


@pytest.mark.parametrize("name", ["host.example", "sha256:" + "ab" * 32, "spiffe://test.example/a/b/c"])
def test_identities_are_known_by_dns_name_fingerprint_and_wildcards(name: str) -> None:
    assert isinstance(decide(policy(ALLOW_ALL), "env:A", name=name), Allow)


def test_two_wildcard_entries_that_match_are_ambiguous_and_denied() -> None:
    assert decide(policy(ALLOW_ALL), "env:A", name="spiffe://two.example/b/a") == Deny(DenyReason.AMBIGUOUS_IDENTITY)


def test_an_exact_entry_goes_before_a_wildcard() -> None:
    subject = policy('allow: ["env:A"], to: [named]', 'allow: ["env:B"], to: [shipper]')
    special = "spiffe://prod.example/logflux/special"
    assert isinstance(decide(subject, "env:A", name=special), Allow)
    assert decide(subject, "env:B", name=special) == Deny(DenyReason.NO_RULE)


def test_a_deny_rule_wins_wherever_it_stands() -> None:
    deny = 'deny: ["vault:secret/logflux#root"], to: [shipper]'
    for subject, name in ((policy(ALLOW_ALL, deny), "rule 2"), (policy(deny, ALLOW_ALL), "rule 1")):
        assert decide(subject, "vault:secret/logflux#root") == Deny(DenyReason.DENY_RULE, name)
        assert isinstance(decide(subject, "vault:secret/logflux#api_key"), Allow)


def test_a_deny_rule_about_a_field_denies_the_whole_secret() -> None:
    subject = policy(ALLOW_ALL, 'deny: ["vault:secret/logflux#root"], to: [shipper]')
    assert decide(subject, "vault:secret/logflux") == Deny(DenyReason.DENY_RULE, "rule 2")


def test_a_deny_rule_for_everyone_denies_every_identity() -> None:
    subject = policy(ALLOW_ALL, 'deny: ["env:A"], to: ["*"]')
    for name in (SHIPPER, "host.example", "spiffe://test.example/x"):
        assert decide(subject, "env:A", name=name) == Deny(DenyReason.DENY_RULE, "rule 2")


def test_the_first_of_several_deny_rules_is_named() -> None:
    subject = policy('deny: ["env:*"], to: ["*"]', 'deny: ["env:A"], to: [shipper]', ALLOW_ALL)
    assert decide(subject, "env:A") == Deny(DenyReason.DENY_RULE, "rule 1")


def test_several_allow_rules_give_the_first_name_and_the_shortest_clocks() -> None:
    subject = policy(
        'allow: ["env:A"], to: [shipper], fresh_for: 1m, max_stale: 1d',
        'allow: ["env:A"], to: [shipper], fresh_for: 1h, max_stale: 5m',
        'allow: ["env:*"], to: [shipper], fresh_for: 10s, max_stale: 1h',
    )
    assert decide(subject, "env:A") == Allow("rule 1", fresh_for=10, max_stale=300)


WALLS = """\
environments:
  production: {owns: ["vault:secret/prod/**", "vault:secret/shared#key"]}
  staging: {owns: ["vault:secret/staging/**"]}
"""


def test_the_wall_of_another_environment_goes_before_every_rule() -> None:
    subject = policy(ALLOW_ALL, head=WALLS)
    assert decide(subject, "vault:secret/staging/a#b") == Deny(DenyReason.ENVIRONMENT)
    assert decide(subject, "vault:secret/prod/a#b", name="spiffe://test.example/x") == Deny(DenyReason.ENVIRONMENT)
    assert isinstance(decide(subject, "vault:secret/prod/a#b"), Allow)


def test_a_wall_holds_for_an_identity_without_an_environment() -> None:
    assert decide(policy(ALLOW_ALL, head=WALLS), "vault:secret/prod/a#b", name="host.example") == Deny(
        DenyReason.ENVIRONMENT
    )


def test_a_wall_around_a_field_stands_before_the_whole_secret() -> None:
    subject = policy(ALLOW_ALL, head=WALLS)
    tester = "spiffe://test.example/x"
    assert decide(subject, "vault:secret/shared", name=tester) == Deny(DenyReason.ENVIRONMENT)
    assert isinstance(decide(subject, "vault:secret/shared#other", name=tester), Allow)


def test_walls_around_many_fields_stand_before_the_whole_secret() -> None:
    fields = ", ".join(f'"vault:secret/a#field{number}"' for number in range(20))
    subject = policy(
        ALLOW_ALL, head=f"environments: {{production: {{owns: [{fields}]}}, staging: {{owns: [env:B]}}}}\n"
    )
    assert decide(subject, "vault:secret/a", name="host.example") == Deny(DenyReason.ENVIRONMENT)
    assert isinstance(decide(subject, "vault:secret/a#other", name="host.example"), Allow)


def test_what_two_environments_own_is_out_of_reach_for_both() -> None:
    subject = policy(ALLOW_ALL, head=WALLS.replace("secret/staging/**", "secret/prod/x"))
    for name in (SHIPPER, "spiffe://test.example/x"):
        assert decide(subject, "vault:secret/prod/x", name=name) == Deny(DenyReason.ENVIRONMENT)


def test_what_no_environment_owns_is_for_the_rules() -> None:
    assert isinstance(decide(policy(ALLOW_ALL, head=WALLS), "env:A", name="host.example"), Allow)


def test_a_token_narrows_to_its_scope() -> None:
    subject = policy(ALLOW_ALL)
    assert isinstance(decide(subject, "env:A", scope=("env:B", "env:A")), Allow)
    assert decide(subject, "env:C", scope=("env:B", "env:A")) == Deny(DenyReason.SCOPE)


def test_an_empty_scope_denies_everything() -> None:
    assert decide(policy(ALLOW_ALL), "env:A", scope=()) == Deny(DenyReason.SCOPE)


def test_a_token_never_widens() -> None:
    subject = policy('allow: ["env:A"], to: [shipper]')
    assert decide(subject, "env:B", scope=("env:*",)) == Deny(DenyReason.NO_RULE)


def test_a_token_does_not_help_against_a_deny_rule() -> None:
    subject = policy(ALLOW_ALL, 'deny: ["env:A"], to: ["*"]')
    assert decide(subject, "env:A", scope=("env:A",)) == Deny(DenyReason.DENY_RULE, "rule 2")


def test_a_rule_whose_conditions_fail_does_not_count() -> None:
    rule = 'allow: ["env:A"], to: [shipper], when: {networks: ["10.0.0.0/8"]}'
    assert isinstance(decide(policy(rule), "env:A", address="10.1.2.3"), Allow)
    assert decide(policy(rule), "env:A", address="11.1.2.3") == Deny(DenyReason.CONDITION)
    assert decide(policy(rule, ALLOW_ALL), "env:A", address="11.1.2.3") == Allow("rule 2", 300, 3600)


def test_a_rule_whose_conditions_fail_does_not_shorten_the_clocks() -> None:
    subject = policy('allow: ["env:A"], to: [shipper], when: {token: required}, fresh_for: 1s', ALLOW_ALL)
    assert decide(subject, "env:A") == Allow("rule 2", 300, 3600)
    assert decide(subject, "env:A", scope=("env:A",)) == Allow("rule 1", 1, 3600)


def test_a_deny_rule_whose_conditions_fail_does_not_deny() -> None:
    subject = policy(ALLOW_ALL, 'deny: ["env:A"], to: [shipper], when: {days: [sat, sun]}')
    monday = datetime(2026, 1, 5, tzinfo=UTC).timestamp()
    assert isinstance(decide(subject, "env:A", now=monday), Allow)
    assert decide(subject, "env:A", now=monday - 86_400) == Deny(DenyReason.DENY_RULE, "rule 2")


def test_conditions_that_can_not_be_evaluated_fail_closed() -> None:
    allow = policy('allow: ["env:A"], to: [shipper], when: {hours: "00:00-24:00"}')
    deny = policy(ALLOW_ALL, 'deny: ["env:A"], to: [shipper], when: {hours: "00:00-24:00"}')
    assert decide(allow, "env:A", now=math.nan) == Deny(DenyReason.CONDITION)
    assert decide(deny, "env:A", now=math.nan) == Deny(DenyReason.DENY_RULE, "rule 2")


def test_a_deny_rule_about_environments_denies_who_belongs_to_none() -> None:
    subject = policy(ALLOW_ALL, 'deny: ["env:A"], to: ["*"], when: {environment: [staging]}')
    assert isinstance(decide(subject, "env:A"), Allow)
    assert decide(subject, "env:A", name="host.example") == Deny(DenyReason.DENY_RULE, "rule 2")


def test_the_environment_of_an_identity_is_told() -> None:
    subject = policy(ALLOW_ALL)
    names = (SHIPPER, "spiffe://test.example/x", "host.example", "spiffe://two.example/b/a", "other.example")
    assert [subject.environment_of(peer(name)) for name in names] == ["production", "staging", None, None, None]
    assert [subject.recognises(peer(name)) for name in names] == [True, True, True, False, False]


def test_grants_are_the_allowed_patterns_once_and_in_file_order() -> None:
    subject = policy(
        'allow: ["env:B", "env:A"], to: [shipper], when: {token: required}',
        'allow: ["env:A", "env:C"], to: [shipper]',
        'allow: ["env:D"], to: [host]',
        'deny: ["env:E"], to: [shipper]',
    )
    assert [pattern.text for pattern in subject.grants(peer())] == ["env:B", "env:A", "env:C"]
    assert subject.grants(peer("spiffe://test.example/x")) == ()
    assert subject.grants(peer("other.example")) == ()
    assert subject.grants(peer("spiffe://two.example/b/a")) == ()


def test_a_hundred_thousand_rules_leave_as_many_candidates_as_ten() -> None:
    def candidates(count: int) -> int:
        rules = (f'allow: ["vault:secret/team{number}/*#key"], to: [shipper]' for number in range(count))
        subject = policy(*rules)
        index = subject._by_recipient["shipper"].allow
        assert isinstance(decide(subject, "vault:secret/team7/db#key"), Allow)
        return len(list(index.covering(parse("vault:secret/team7/db#key"))))

    assert candidates(10) == candidates(10_000) == 1


def test_many_rules_about_one_path_leave_the_candidates_of_one_field() -> None:
    subject = policy(*(f'allow: ["vault:secret/a#field{number}"], to: [shipper]' for number in range(1_000)))
    index = subject._by_recipient["shipper"].allow
    assert [pattern.text for pattern, _ in index.covering(parse("vault:secret/a#field7"))] == ["vault:secret/a#field7"]


def test_each_of_many_deny_rules_about_fields_denies_the_whole_secret() -> None:
    denies = (
        f'deny: ["vault:secret/a#field{number}"], to: [shipper], when: {{token: required}}' for number in range(20)
    )
    subject = policy(*denies, 'deny: ["vault:secret/a#/deep/er"], to: [shipper]', ALLOW_ALL)
    assert decide(subject, "vault:secret/a") == Deny(DenyReason.DENY_RULE, "rule 21")
    assert decide(subject, "vault:secret/a#deep") == Deny(DenyReason.DENY_RULE, "rule 21")
    assert decide(subject, "vault:secret/a#/deep/er/still") == Deny(DenyReason.DENY_RULE, "rule 21")
    assert isinstance(decide(subject, "vault:secret/a#field7"), Allow)


def test_many_rules_about_the_same_thing_come_together() -> None:
    subject = policy(*('allow: ["env:A"], to: [shipper]' for _ in range(1_000)))
    assert len(list(subject._by_recipient["shipper"].allow.covering(parse("env:A")))) == 1


def test_a_reload_replaces_the_policy_in_force() -> None:
    first, second = policy('allow: ["env:A"], to: [shipper]'), policy('allow: ["env:B"], to: [shipper]')
    current = CurrentPolicy(first)
    assert current.current is first
    current.replace(second)
    assert current.current is second


def test_what_is_remembered_of_a_reference_depends_on_neither_subject_nor_context() -> None:
    subject = policy(
        'allow: ["vault:secret/**"], to: [shipper], when: {networks: ["10.0.0.0/8"]}',
        'deny: ["vault:secret/closed"], to: ["*"], when: {hours: "22:00-06:00"}',
    )
    noon = 12 * 3600.0
    for _ in range(2):
        assert decide(subject, "vault:secret/a#b", address="10.1.2.3", now=noon) == Allow("rule 1", 300, 3600)
        assert decide(subject, "vault:secret/a#b", address="192.0.2.1", now=noon) == Deny(DenyReason.CONDITION)
        assert decide(subject, "vault:secret/a#b", name="host.example", now=noon) == Deny(DenyReason.NO_RULE)
        assert decide(subject, "vault:secret/closed", address="10.1.2.3", now=noon) == Allow("rule 1", 300, 3600)
        assert decide(subject, "vault:secret/closed", now=0.0) == Deny(DenyReason.DENY_RULE, "rule 2")
        scope = ("vault:secret/other",)
        assert decide(subject, "vault:secret/a#b", address="10.1.2.3", now=noon, scope=scope) == Deny(DenyReason.SCOPE)


def test_all_references_of_a_request_are_decided_as_each_alone_is() -> None:
    subject = policy('allow: ["vault:secret/*"], to: [shipper]', 'deny: ["vault:secret/closed"], to: [shipper]')
    references = [parse(text) for text in ("vault:secret/a", "vault:secret/closed", "env:A", "vault:secret/a")]
    context = Context(address=ip_address("127.0.0.1"), now=0.0)
    together = subject.decide_all(identity=peer(), references=references, context=context)
    assert together == [subject.decide(identity=peer(), reference=one, context=context) for one in references]
    assert subject.decide_all(identity=peer("nobody.example"), references=references, context=context) == [
        Deny(DenyReason.UNKNOWN_IDENTITY)
    ] * len(references)


def test_an_administrator_never_resolves_and_has_no_scope() -> None:
    rules = (Rule(**RULE), Rule(**{**RULE, "order": 1, "name": "second", "to": ("shipper",)}))
    # No file can say this, so the engine is asked by itself: a rule for an administrator counts for nothing.
    subject = Policy(
        rules=rules,
        subjects=[Subject(name="shipper", kind=IdentityKind.SPIFFE, pattern=SHIPPER, environment=None)],
        owned={},
        digest="",
        administrators=["shipper"],
    )
    assert decide(subject, "env:A") == Deny(DenyReason.ADMINISTRATOR)
    assert subject.grants(peer()) == ()
    assert subject.administers(peer())


def test_only_named_identities_are_administrators() -> None:
    subject = policy('allow: ["env:A"], to: [host]', head="administrators: [shipper, right]\n")
    assert subject.administers(peer())
    assert not subject.administers(peer("host.example"))
    assert not subject.administers(peer("spiffe://nobody.example/a"))
    assert not subject.administers(peer("spiffe://two.example/b/a")), "two entries match, so nobody knows who it is"


def test_the_age_is_left_to_be_asked_of_what_is_read() -> None:
    subject = policy('allow: ["env:A"], to: [shipper], when: {younger_than: 90d}')
    assert decide(subject, "env:A") == Allow("rule 1", 300, 3600, younger_than=90 * 86_400)


def test_a_condition_that_does_not_hold_refuses_before_the_age_is_asked() -> None:
    subject = policy('allow: ["env:A"], to: [shipper], when: {younger_than: 90d, networks: [10.0.0.0/8]}')
    assert decide(subject, "env:A") == Deny(DenyReason.CONDITION)


def test_of_several_allow_rules_the_widest_age_counts() -> None:
    young = 'allow: ["env:A"], to: [shipper], when: {younger_than: 1d}, fresh_for: 1m'
    older = 'allow: ["env:A"], to: [shipper], when: {younger_than: 9d}'
    ageless = 'allow: ["env:*"], to: [shipper]'
    assert decide(policy(young, older), "env:A") == Allow("rule 2", 60, 3600, younger_than=9 * 86_400)
    assert decide(policy(young, ageless, older), "env:A") == Allow("rule 2", 60, 3600)


def test_two_rules_that_differ_in_age_alone_stay_two() -> None:
    both = ('allow: ["env:A"], to: [shipper], when: {younger_than: 1d}', 'allow: ["env:A"], to: [shipper]')
    assert decide(policy(*both), "env:A") == Allow("rule 2", 300, 3600)
    assert decide(policy(*reversed(both)), "env:A") == Allow("rule 1", 300, 3600)

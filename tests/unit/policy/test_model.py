"""What a policy file may say, and how it is refused."""

from pathlib import Path

import pytest

from broker.errors import PolicyInvalidError
from broker.policy import parse
from broker.policy.engine import compile_policy

HEAD = """\
identities:
  shipper: {spiffe: "spiffe://prod.example/logflux/*", environment: production}
"""
RULE = """\
rules:
  - name: first
    allow: ["env:A"]
    to: [shipper]
"""
EXAMPLES = Path(__file__).parents[3] / "deploy" / "policies"


def refused(text: str | bytes) -> PolicyInvalidError:
    with pytest.raises(PolicyInvalidError) as caught:
        compile_policy(text)
    return caught.value


def test_a_minimal_policy_is_good() -> None:
    assert compile_policy(HEAD + RULE).rule_count == 1


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
def test_every_example_is_good(file: Path) -> None:
    assert compile_policy(file.read_bytes()).rule_count > 0


def test_there_is_an_example() -> None:
    assert (EXAMPLES / "example.yaml").exists()


def test_the_digest_is_that_of_the_file() -> None:
    text = HEAD + RULE
    assert compile_policy(text).digest == compile_policy(text.encode()).digest
    assert compile_policy(text).digest != compile_policy(text + "\n").digest


@pytest.mark.parametrize(
    ("text", "words", "place"),
    [
        ("", "empty", (1, 1)),
        ("{}", "empty", (1, 1)),
        ("[]", "mapping", (1, 1)),
        ("policy", "mapping", (1, 1)),
        (HEAD, "rules: missing", (1, 1)),
        (HEAD + "rules: []\n", "rules: empty", (3, 8)),
        (HEAD + "rules:\n", "rules: no list", (3, 7)),
        ("identities: {}\n" + RULE, "identities: empty", (1, 13)),
        (RULE, "identities: missing", (1, 1)),
        (
            HEAD + RULE + "extra: 1\n",
            "unknown key; the keys here are environments, identities, administrators, rules",
            (7, 1),
        ),
    ],
)
def test_a_file_without_rules_or_identities_is_refused(text: str, words: str, place: tuple[int, int]) -> None:
    error = refused(text)
    assert words in error.detail
    assert (error.line, error.column) == place


@pytest.mark.parametrize(
    ("lines", "words", "place"),
    [
        ("allow: []", "allow: empty", (5, 12)),
        ("deny: []", "deny: empty", (5, 11)),
        ("fresh_for: 5m", "exactly one of allow and deny", (4, 5)),
        ('allow: ["env:A"]\n    deny: ["env:B"]', "exactly one of allow and deny", (4, 5)),
        ("allow: env:A", "no list", (5, 12)),
        ('allow: ["prod"]', "character", (5, 13)),
        ('allow: [["env:A"]]', "text", (5, 13)),
        ('alow: ["env:A"]', "unknown key; did you mean allow? the keys here are name, allow, deny, to, when", (5, 5)),
        ('deny: ["env:A"]\n    fresh_for: 5m', "no fresh_for", (4, 5)),
        ('deny: ["env:A"]\n    max_stale: 0', "no max_stale", (4, 5)),
        ('allow: ["env:A"]\n    fresh_for: 5', "duration", (6, 16)),
        ('allow: ["env:A"]\n    fresh_for: -5m', "duration", (6, 16)),
        ('allow: ["env:A"]\n    max_stale: -1s', "duration", (6, 16)),
        ('allow: ["env:A"]\n    max_stale: 5min', "duration", (6, 16)),
        ('allow: ["env:A"]\n    max_stale: 010', "duration", (6, 16)),
        ('allow: ["env:A"]\n    max_stale: ~', "duration", (6, 16)),
        ('allow: ["env:A"]\n    max_stale: 366d', "365d", (6, 16)),
        ('allow: ["env:A"]\n    when:', "when: no mapping", (6, 10)),
        (
            'allow: ["env:A"]\n    when: {network: [x]}',
            "unknown key; did you mean networks? the keys here are networks, hours",
            (6, 12),
        ),
        ('allow: ["env:A"]\n    when: {networks: []}', "networks: empty", (6, 22)),
        ('allow: ["env:A"]\n    when: {networks: ["10.0.0.1/8"]}', "no network", (6, 23)),
        ('allow: ["env:A"]\n    when: {hours: 8-18}', "hours", (6, 19)),
        ('allow: ["env:A"]\n    when: {days: [monday]}', "no day", (6, 19)),
        ('allow: ["env:A"]\n    when: {days: []}', "days: empty", (6, 18)),
        ('allow: ["env:A"]\n    when: {token: yes}', "token: required", (6, 19)),
        ('allow: ["env:A"]\n    when: {environment: []}', "environment: empty", (6, 25)),
        ('allow: ["env:A"]\n    when: {environment: [prod]}', "no identity belongs to prod", (6, 26)),
    ],
)
def test_a_rule_that_says_something_else_is_refused(lines: str, words: str, place: tuple[int, int]) -> None:
    error = refused(f"{HEAD}rules:\n  - name: first\n    {lines}\n    to: [shipper]\n")
    assert words in error.detail
    assert (error.line, error.column) == place


@pytest.mark.parametrize(
    ("to", "words", "column"),
    [
        ("[]", "empty", 9),
        ("shipper", "no list", 9),
        ("[shiper]", "not declared", 10),
        ('["*"]', '"*" is for deny rules', 5),
        ('["sh*"]', "no name", 10),
    ],
)
def test_an_allow_rule_names_declared_identities(to: str, words: str, column: int) -> None:
    error = refused(f'{HEAD}rules:\n  - name: first\n    allow: ["env:A"]\n    to: {to}\n')
    assert words in error.detail
    assert (error.line, error.column) == ((4, 5) if column == 5 else (6, column))


def test_a_rule_without_to_is_refused() -> None:
    assert "to: missing" in refused(f'{HEAD}rules:\n  - name: first\n    allow: ["env:A"]\n').detail


def test_a_deny_rule_may_be_for_everyone_but_not_for_everyone_and_one() -> None:
    rule = '  - name: second\n    deny: ["env:B"]\n    to: ["*"]\n'
    assert compile_policy(HEAD + RULE + rule).rule_count == 2
    assert "everyone" in refused(HEAD + RULE + rule.replace('["*"]', '["*", shipper]')).detail


def test_two_rules_of_one_name_are_refused() -> None:
    error = refused(HEAD + RULE + RULE.removeprefix("rules:\n"))
    assert "line 4 has the same name" in error.detail
    assert error.line == 7


@pytest.mark.parametrize(
    "name", ["no", "on", "010", "12:30", "1_000", "~", "2026-11-23", "''", "' '", "x" * 201, '"a\\u202eb"']
)
def test_a_rule_name_that_surprises_is_refused(name: str) -> None:
    error = refused(HEAD + RULE.replace("first", name))
    assert "rule name" in error.detail
    assert (error.line, error.column) == (4, 11)


@pytest.mark.parametrize(
    "name", ["no", "on", "y", "null", "010", "12:30", "1_000", "~", "2026-11-23", "A", "a b", "a" * 64]
)
def test_an_identity_name_that_surprises_is_refused(name: str) -> None:
    error = refused(HEAD.replace("shipper", name) + RULE.replace("shipper", "other"))
    assert "name" in error.detail
    assert (error.line, error.column) == (2, 3)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{environment: production}", "exactly one of spiffe, dns, fingerprint"),
        ("{dns: a.example, spiffe: spiffe://a.example/b}", "exactly one"),
        ("{}", "exactly one"),
        ("spiffe://a.example/b", "no mapping"),
        ("{spiffe: https://a.example/b}", "no SPIFFE id"),
        ("{spiffe: spiffe://a.example}", "no SPIFFE id"),
        ('{spiffe: "spiffe://*/b"}', "no SPIFFE id"),
        ('{spiffe: "spiffe://*.example/b"}', "no SPIFFE id"),
        ("{spiffe: spiffe://A.example/b}", "no SPIFFE id"),
        ("{spiffe: spiffe://a.example/}", "segment"),
        ("{spiffe: spiffe://a.example/b/../c}", "segment"),
        ('{spiffe: "spiffe://a.example/b*"}', "segment"),
        ('{spiffe: "spiffe://a.example/***"}', "segment"),
        ('{spiffe: "spiffe://a.example/%2e"}', "segment"),
        ('{spiffe: "spiffe://a.example/**/a/**/b/**/c/**/d/**"}', "be more precise"),
        ('{dns: "*.example"}', "no DNS name"),
        ("{dns: A.example}", "no DNS name"),
        ("{dns: a.example.}", "no DNS name"),
        ("{fingerprint: sha256:abc}", "no fingerprint"),
        (f"{{fingerprint: sha256:{'A' * 64}}}", "no fingerprint"),
        ("{dns: a.example, environment: no}", "choose another"),
        ("{dns: a.example, group: x}", "the keys here are spiffe, dns, fingerprint, environment"),
    ],
)
def test_an_identity_that_names_no_one_kind_of_certificate_is_refused(entry: str, words: str) -> None:
    error = refused(f"identities:\n  shipper: {entry}\n{RULE}")
    assert words in error.detail
    assert error.line == 2


def test_two_identities_with_the_same_certificates_are_refused() -> None:
    error = refused(HEAD + '  other: {spiffe: "spiffe://prod.example/logflux/*"}\n' + RULE)
    assert "shipper has the same certificates" in error.detail
    assert (error.line, error.column) == (3, 19)


def test_an_environment_that_is_not_declared_is_refused_when_others_are() -> None:
    error = refused('environments: {staging: {owns: ["env:A"]}}\n' + HEAD + RULE)
    assert "production is not declared" in error.detail
    assert error.line == 3


@pytest.mark.parametrize("environment", ["{}", "{owns: []}", '{owns: ["nothing"]}', "{owns: env:A}", "{own: [env:A]}"])
def test_an_environment_that_owns_nothing_is_refused(environment: str) -> None:
    error = refused(f"environments:\n  production: {environment}\n" + HEAD + RULE)
    assert "environments.production" in error.detail
    assert error.line == 2


@pytest.mark.parametrize(
    "text",
    [
        HEAD + RULE + "rules: []\n",
        HEAD + RULE + '    allow: ["env:B"]\n',
        HEAD + RULE + "    <<: {deny: [x]}\n",
        HEAD.replace("{spiffe", "&a {spiffe") + RULE,
        HEAD + RULE + "---\n" + HEAD,
        "a: !!python/name:os.system\n",
        "[" * 1_000,
    ],
)
def test_what_strict_yaml_refuses_is_no_policy(text: str) -> None:
    error = refused(text)
    assert error.code == "policy_invalid"
    assert error.line > 0


def test_the_first_error_of_several_is_told_with_their_number() -> None:
    error = refused("identities:\n  a: {dns: A}\n  b: {dns: B}\nrules: []\n")
    assert error.line == 2
    assert "(2 more)" in error.detail


def test_more_bytes_than_the_limit_are_refused() -> None:
    assert "larger" in refused(b"#" * (parse.MAX_POLICY_BYTES + 1)).detail


def test_more_pairs_of_identity_and_pattern_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "MAX_GRANTS", 1)
    text = HEAD + RULE.replace('["env:A"]', '["env:A", "env:B"]')
    assert "more than 1 pairs" in refused(text).detail


def test_an_error_does_not_print_braces_as_fields() -> None:
    assert refused(HEAD + RULE.replace("env:A", "{detail}")).line == 5


@pytest.mark.parametrize(
    ("administrators", "to", "words", "line"),
    [
        ("[]", "shipper", "administrators: empty", 3),
        ("[shiper]", "shipper", "administrators[1]: shiper is not declared; did you mean shipper?", 3),
        ("shipper", "shipper", "administrators: no list", 3),
        ("[shipper]", "shipper", "shipper is an administrator, who reads no secrets", 7),
    ],
)
def test_an_administrator_is_declared_and_reads_nothing(administrators: str, to: str, words: str, line: int) -> None:
    rule = f"rules:\n  - name: first\n    allow: [env:A]\n    to: [{to}]\n"
    error = refused(f"{HEAD}administrators: {administrators}\n{rule}")
    assert words in error.detail
    assert error.line == line


def test_a_deny_rule_may_name_an_administrator() -> None:
    rules = (
        "rules:\n  - name: first\n    deny: [env:A]\n    to: [shipper]\n"
        "  - name: second\n    allow: [env:A]\n    to: [other]\n"
    )
    head = HEAD + '  other: {dns: "other.example"}\n'
    assert parse.parse_policy(f"{head}administrators: [shipper]\n{rules}").administrators == ("shipper",)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("allow: [env:A]\n    when: {younger_than: 90}", "no duration"),
        ("allow: [env:A]\n    when: {younger_than: 0}", "an age of 0"),
        ("allow: [env:A]\n    when: {younger_than: 366d}", "longer than 365d"),
        ("deny: [env:A]\n    when: {younger_than: 90d}", "a deny rule takes no younger_than"),
    ],
)
def test_an_age_that_says_nothing_is_refused(rule: str, words: str) -> None:
    assert words in refused(f"{HEAD}rules:\n  - name: first\n    to: [shipper]\n    {rule}\n").detail


def test_a_misspelt_key_comes_before_the_one_that_is_missing_for_it() -> None:
    error = refused(f"{HEAD}rulez: []\n")
    assert "rulez: unknown key; did you mean rules?" in error.detail
    assert "(1 more)" in error.detail

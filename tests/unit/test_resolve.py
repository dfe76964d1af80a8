"""The use case: the order of the steps, and what is on record."""

import asyncio
import base64
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from broker.audit.event import EventKind, Outcome
from broker.errors import (
    AuditUnavailableError,
    IdentityRefusedError,
    IdentityRefusedReason,
    MissingPart,
    ReferenceCountError,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    ThrottledError,
    TokenRefusedError,
    UpstreamDeniedError,
)
from broker.identity import IdentityKind, PeerIdentity
from broker.limits.in_flight import InFlight
from broker.pattern import parse_pattern
from broker.policy.decision import Allow
from broker.reference import Source
from broker.resolution.items import DENIED_DETAIL
from broker.resolution.results import Granted, Refused, Require, Resolution
from broker.resolve import Wishes
from broker.secret import Facts, Reading, SecretDocument, SecretValue
from broker.source_words import SourceWords
from broker.tokens import TokenClaims
from tests.fakes import (
    START,
    FakeClock,
    FakePolicy,
    FakeProvider,
    FakeTrail,
    FakeVerifier,
    fake_metrics,
    fake_peer,
    fields_reading,
    text_reading,
)
from tests.resolving import admission_of, resolving

ALLOW = Allow("read own", 300.0, 3600.0)
KEY, TOKEN = "vault:secret/app#key", "vault:secret/app#token"
CANARY = "canary-6f1b"


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = fake_metrics()
        self.claim = InFlight.unlimited().claim("shipper")
        self.vault = FakeProvider({"secret/app": fields_reading(key=CANARY, token="t", port=1.50)})
        self.env = FakeProvider({"PAT": text_reading("pat")})
        self.policy = FakePolicy({"vault:secret/app": ALLOW, "env:": ALLOW})
        self.verifier = FakeVerifier()
        self.trail = FakeTrail()
        common: Any = {"policy": self.policy, "trail": self.trail, "metrics": self.metrics, "clock": self.clock}
        self.admission = admission_of(**common, verifier=self.verifier, per_second=10, burst=100)
        providers = {"vault": self.vault, "env": self.env}
        self.resolver, self.cache = resolving(**common, admission=self.admission, providers=providers)

    async def ask(
        self,
        *texts: str,
        require: Require = Require.ALL,
        token: str | None = None,
        peer: PeerIdentity | None = None,
        **freshness: object,
    ) -> Resolution:
        return await self.resolver.resolve(
            peer=peer or fake_peer(),
            unverified_token=token,
            texts=texts,
            require=require,
            address=ip_address("10.0.0.7"),
            request="request-1",
            wishes=Wishes(**freshness),
            claim=self.claim,
        )

    def give_token(self, *scope: str, environment: str = "production") -> None:
        self.verifier.claims["good"] = TokenClaims(
            token_id="jti-1",
            subject="spiffe://prod.example/shipper",
            environment=environment,
            scope=tuple(parse_pattern(text) for text in scope),
            thumbprint="t" * 43,
            issued_at=0,
            expires_at=9,
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def values(resolution: Resolution) -> list[str]:
    return [
        result.value.reveal().decode() if isinstance(result, Granted) else result.status
        for result in resolution.results
    ]


async def test_values_come_back_in_the_order_asked_with_their_references_as_asked(bench: Bench) -> None:
    texts = (TOKEN, "${PAT}", KEY, "env:PAT")
    resolution = await bench.ask(*texts)
    assert values(resolution) == ["t", "pat", CANARY, "pat"]
    assert [result.reference for result in resolution.results] == list(texts)


async def test_one_read_serves_every_reference_of_one_path(bench: Bench) -> None:
    await bench.ask(KEY, TOKEN, KEY, "vault:secret/app")
    assert len(bench.vault.fetched) == 1


async def test_distinct_sources_are_read_at_the_same_time(bench: Bench) -> None:
    bench.vault.gate = bench.env.gate = asyncio.Event()
    asking = asyncio.create_task(bench.ask(KEY, "env:PAT"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert (len(bench.vault.fetched), len(bench.env.fetched)) == (1, 1)
    bench.vault.gate.set()
    await asking


async def test_policy_is_asked_before_the_cache_and_the_provider(bench: Bench) -> None:
    await bench.ask(KEY)
    del bench.policy.allowed["vault:secret/app"]
    bench.vault.sources.clear()
    bench.vault.fetched.clear()
    cached = await bench.ask(KEY, require=Require.ANY)
    unknown = await bench.ask("vault:secret/none#key", require=Require.ANY)
    for resolution in (cached, unknown):
        assert isinstance(resolution.results[0], Refused)
        assert resolution.results[0].detail == DENIED_DETAIL
        assert resolution.results[0].status == "denied"
    assert bench.vault.fetched == []


async def test_nothing_is_returned_before_the_event_is_durable(bench: Bench) -> None:
    bench.trail.full = True
    with pytest.raises(AuditUnavailableError):
        await bench.ask(KEY)


async def test_the_event_says_who_got_what_and_holds_no_value(bench: Bench) -> None:
    bench.give_token("vault:secret/app#*", "env:PAT")
    await bench.ask(KEY, "$PAT", token="good")
    [event] = bench.trail.events
    assert (event.kind, event.outcome, event.reason) == (EventKind.RESOLVE, Outcome.SUCCESS, "")
    assert (event.identity, event.environment, event.address) == (fake_peer().name, "production", "10.0.0.7")
    assert (event.request, event.token) == ("request-1", "jti-1")
    first, second = event.references
    assert (first.reference, first.status, first.rule, first.version) == (KEY, "ok", "read own", "1")
    assert (first.fingerprint, first.upstream_request) == (f"fp:k1:{len(CANARY)}", "up-1")
    assert second.reference == "env:PAT"
    assert CANARY not in repr(event)


async def test_with_all_one_failure_means_no_value_and_every_failure_is_named(bench: Bench) -> None:
    resolution = await bench.ask(KEY, "vault:secret/app#none", "vault:secret/foreign#x", require=Require.ALL)
    assert not resolution.complete
    assert [(result.reference, result.status) for result in resolution.results] == [
        ("vault:secret/app#none", "missing"),
        ("vault:secret/foreign#x", "denied"),
    ]
    [event] = bench.trail.events
    assert (event.outcome, event.reason) == (Outcome.FAILURE, "denied")
    assert [(record.status, record.fingerprint) for record in event.references] == [
        ("withheld", ""),
        ("missing", ""),
        ("denied", ""),
    ]
    assert event.references[1].reason == "field"
    assert event.references[2].reason == "no_rule"


async def test_a_value_that_was_withheld_once_is_on_record_when_it_is_given(bench: Bench) -> None:
    await bench.ask(KEY, "vault:secret/app#none")
    await bench.ask(KEY)
    await bench.ask(KEY, "vault:secret/app#none")
    records = [event.references[0] for event in bench.trail.events]
    assert [(record.status, record.fingerprint) for record in records] == [
        ("withheld", ""),
        ("ok", f"fp:k1:{len(CANARY)}"),
        ("withheld", ""),
    ]


async def test_a_value_that_was_read_anew_is_recorded_anew(bench: Bench) -> None:
    await bench.ask(KEY)
    bench.clock.advance(301)
    bench.vault.sources["secret/app"] = fields_reading(key="changed")
    assert values(await bench.ask(KEY)) == ["changed"]
    assert bench.trail.events[-1].references[0].fingerprint == "fp:k1:7"


async def test_with_any_the_rest_is_answered(bench: Bench) -> None:
    resolution = await bench.ask("vault:secret/foreign#x", KEY, require=Require.ANY)
    assert resolution.complete
    assert values(resolution) == ["denied", CANARY]
    assert bench.trail.events[0].outcome is Outcome.SUCCESS


async def test_with_any_and_no_value_the_event_is_a_failure(bench: Bench) -> None:
    await bench.ask("vault:secret/foreign#x", require=Require.ANY)
    assert bench.trail.events[0].outcome is Outcome.FAILURE


async def test_a_malformed_text_is_told_with_its_position_and_never_recorded(bench: Bench) -> None:
    text = f"{CANARY} with a space"
    resolution = await bench.ask(text, require=Require.ANY)
    [result] = resolution.results
    assert isinstance(result, Refused)
    assert (result.status, result.code, result.reference) == ("invalid", "reference_malformed", text)
    assert result.position is not None
    assert CANARY not in result.detail
    [record] = bench.trail.events[0].references
    assert (record.reference, record.status, record.reason) == ("", "invalid", f"malformed_at_{result.position}")


@pytest.mark.parametrize(
    ("error", "status", "code", "reason"),
    [
        (SecretMissingError("m", part=MissingPart.DESTROYED), "missing", "secret_missing", "destroyed"),
        (UpstreamDeniedError("u"), "denied", "upstream_denied", "upstream_denied"),
        (SecretUnusableError("s"), "invalid", "secret_unusable", "secret_unusable"),
        (SourceUnavailableError("a", retry_after=7), "unavailable", "source_unavailable", "source_unavailable"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@pytest.mark.parametrize("where", ["check", "fetch"])
async def test_each_failure_of_a_source_has_its_status(
    bench: Bench, error: Exception, status: str, code: str, reason: str, where: str
) -> None:
    if where == "check":
        bench.vault.refused = error
    else:
        bench.vault.sources["secret/app"] = error
    [result] = (await bench.ask(KEY)).results
    assert isinstance(result, Refused)
    assert (result.status, result.code) == (status, code)
    assert result.retry_after == getattr(error, "retry_after", None)
    assert bench.trail.events[0].references[0].reason == reason


async def test_what_a_source_said_is_on_record_each_time_and_never_in_the_answer(bench: Bench) -> None:
    words = SourceWords(asked="GET secret/data/app", status=500, texts=["permission denied"])
    bench.vault.sources["secret/app"] = SourceUnavailableError("a", words=words)
    # The second one is answered from memory.
    answers = [await bench.ask(KEY), await bench.ask(KEY)]
    assert len(bench.vault.fetched) == 1
    assert [event.references[0].words for event in bench.trail.events] == [words, words]
    assert "permission denied" not in repr(answers)


async def test_a_source_that_is_refused_by_its_provider_is_not_read(bench: Bench) -> None:
    bench.vault.refused = SecretMissingError("outside", part=MissingPart.PATH)
    await bench.ask(KEY)
    assert bench.vault.fetched == []


async def test_an_allowed_scheme_without_a_provider_is_missing(bench: Bench) -> None:
    bench.policy.allowed["file:"] = ALLOW
    [result] = (await bench.ask("/var/secrets/x")).results
    assert result.status == "missing"


async def test_two_references_of_one_source_share_the_shortest_clocks(bench: Bench) -> None:
    bench.policy.allowed = {KEY: Allow("short", 10.0, 3600.0), TOKEN: Allow("long", 300.0, 20.0)}
    resolution = await bench.ask(KEY, TOKEN)
    for result in resolution.results:
        assert isinstance(result, Granted)
        assert result.fresh_until - result.fetched_at == 10
        assert result.stale_until - result.fetched_at == 20


async def test_a_stale_value_is_marked_in_the_answer_and_the_record(bench: Bench) -> None:
    await bench.ask(KEY)
    bench.vault.sources["secret/app"] = SourceUnavailableError("down")
    bench.clock.advance(301)
    [result] = (await bench.ask(KEY)).results
    assert result.status == "stale"
    assert bench.trail.events[-1].references[0].status == "stale"


async def test_base64_is_decoded_where_the_reference_asks(bench: Bench) -> None:
    bench.vault.sources["secret/app"] = fields_reading(key=base64.b64encode(b"\x00\xff").decode(), bad="no base64!")
    [result] = (await bench.ask("vault:secret/app?decode=base64#key")).results
    assert isinstance(result, Granted)
    assert (result.value.reveal(), result.value.encoding) == (b"\x00\xff", "base64")
    [result] = (await bench.ask("vault:secret/app?decode=base64#bad")).results
    assert (result.status, result.code) == ("invalid", "secret_unusable")


async def test_a_resolved_value_is_never_parsed_again(bench: Bench) -> None:
    bench.vault.sources["secret/app"] = fields_reading(key="${PAT}")
    assert values(await bench.ask(KEY)) == ["${PAT}"]


async def test_a_token_narrows_what_policy_gives(bench: Bench) -> None:
    bench.give_token("vault:secret/app#key")
    resolution = await bench.ask(KEY, TOKEN, token="good", require=Require.ANY)
    assert values(resolution) == [CANARY, "denied"]


async def test_a_refused_token_is_recorded_and_nothing_is_asked(bench: Bench) -> None:
    with pytest.raises(TokenRefusedError):
        await bench.ask(KEY, token=f"forged-{CANARY}")
    [event] = bench.trail.events
    assert (event.kind, event.outcome, event.reason) == (EventKind.AUTHENTICATION, Outcome.FAILURE, "signature")
    assert CANARY not in repr(event)
    assert bench.policy.asked == []


async def test_a_token_of_another_environment_is_refused(bench: Bench) -> None:
    bench.give_token("vault:secret/app#*", environment="staging")
    with pytest.raises(TokenRefusedError):
        await bench.ask(KEY, token="good")
    assert bench.trail.events[0].reason == "environment"


async def test_a_certificate_without_a_san_counts_only_if_policy_names_it(bench: Bench) -> None:
    peer = fake_peer("sha256:" + "0" * 64, IdentityKind.FINGERPRINT)
    assert (await bench.ask(KEY, peer=peer)).complete
    bench.policy.known = False
    with pytest.raises(IdentityRefusedError) as refused:
        await bench.ask(KEY, peer=peer)
    assert refused.value.reason is IdentityRefusedReason.NO_SAN
    assert (bench.trail.events[-1].kind, bench.trail.events[-1].reason) == (EventKind.AUTHENTICATION, "no_san")


async def test_a_refused_certificate_is_recorded(bench: Bench) -> None:
    error = IdentityRefusedError("two", reason=IdentityRefusedReason.TWO_URI_SANS)
    await bench.admission.refuse_identity(error, address=ip_address("::1"), request="request-2")
    [event] = bench.trail.events
    assert (event.kind, event.reason, event.address) == (EventKind.AUTHENTICATION, "two_uri_sans", "::1")


@pytest.mark.parametrize("count", [0, 257])
async def test_the_number_of_references_is_bounded(bench: Bench, count: int) -> None:
    with pytest.raises(ReferenceCountError, match=str(count)):
        await bench.ask(*[KEY] * count)


async def test_256_references_are_answered(bench: Bench) -> None:
    assert len((await bench.ask(*[KEY] * 256)).results) == 256


async def test_answers_are_counted_by_provider_and_outcome(bench: Bench) -> None:
    await bench.ask(KEY, "env:PAT", "env:PAT", "not one", require=Require.ANY)
    count = bench.metrics.registry.get_sample_value
    assert count("broker_references_total", {"provider": "env", "outcome": "ok"}) == 2
    assert count("broker_references_total", {"provider": "none", "outcome": "invalid"}) == 1


async def test_policy_sees_only_canonical_references(bench: Bench) -> None:
    await bench.ask("$<PAT>")
    [(reference, context)] = bench.policy.asked
    assert reference.text == "env:PAT"
    assert (str(context.address), context.scope) == ("10.0.0.7", None)


async def test_a_caller_may_ask_for_a_younger_value_than_policy_does(bench: Bench) -> None:
    await bench.ask(KEY)
    bench.vault.sources["secret/app"] = fields_reading(key="changed")
    bench.clock.advance(20)
    assert values(await bench.ask(KEY, max_age=30)) == [CANARY]
    assert values(await bench.ask(KEY, max_age=10)) == ["changed"]


async def test_a_caller_may_not_ask_for_an_older_value_than_policy_allows(bench: Bench) -> None:
    await bench.ask(KEY)
    bench.vault.sources["secret/app"] = SourceUnavailableError("away")
    bench.clock.advance(3601)
    assert values(await bench.ask(KEY, require=Require.ANY, max_age=86_400)) == ["unavailable"]


async def test_a_value_older_than_the_caller_takes_is_not_handed_out_while_the_source_is_away(bench: Bench) -> None:
    await bench.ask(KEY)
    bench.vault.sources["secret/app"] = SourceUnavailableError("away")
    bench.clock.advance(60)
    assert values(await bench.ask(KEY, require=Require.ANY, max_age=30)) == ["unavailable"]
    assert values(await bench.ask(KEY)) == [CANARY]


async def test_asking_for_fresh_values_again_and_again_costs_one_read_a_second(bench: Bench) -> None:
    for _ in range(50):
        await bench.ask(KEY, max_age=0)
        bench.clock.advance(0.1)
    assert len(bench.vault.fetched) <= 6


async def test_an_earlier_version_than_the_caller_knows_of_is_read_again(bench: Bench) -> None:
    await bench.ask(KEY)
    bench.clock.advance(5)
    bench.vault.sources["secret/app"] = Reading(SecretDocument.of_fields({"key": "second"}, size=6), version="2")
    assert values(await bench.ask(KEY, min_versions={KEY: 1})) == [CANARY]
    assert values(await bench.ask(KEY, min_versions={KEY: 2})) == ["second"]


async def test_a_version_that_the_source_has_not_yet_is_unavailable_and_costs_one_read_a_second(bench: Bench) -> None:
    for _ in range(20):
        resolution = await bench.ask(KEY, require=Require.ANY, min_versions={KEY: 7})
        [result] = resolution.results
        assert isinstance(result, Refused)
        assert (result.status, result.retry_after) == ("unavailable", 1.0)
        bench.clock.advance(0.1)
    assert len(bench.vault.fetched) <= 3


async def test_a_version_of_a_source_that_keeps_none_is_invalid(bench: Bench) -> None:
    resolution = await bench.ask("env:PAT", require=Require.ANY, min_versions={"env:PAT": 1})
    assert [result.status for result in resolution.results] == ["invalid"]


async def test_an_identity_that_asks_in_a_loop_is_slowed_and_named_in_the_trail_once(bench: Bench) -> None:
    origin = {"address": ip_address("10.0.0.7"), "request": "request-1"}
    for _ in range(100):
        await bench.admission.slow(fake_peer(), EventKind.RESOLVE, **origin)
    for _ in range(50):
        with pytest.raises(ThrottledError):
            await bench.admission.slow(fake_peer(), EventKind.RESOLVE, **origin)
    assert [(event.kind, event.reason) for event in bench.trail.events] == [(EventKind.RESOLVE, "rate_limited")]
    assert bench.metrics.registry.get_sample_value("broker_throttled_requests_total") == 50
    await bench.admission.slow(fake_peer("spiffe://prod.example/other"), EventKind.RESOLVE, **origin)


YOUNG = Allow("read young", 300.0, 3600.0, younger_than=86_400.0)


def written(seconds_ago: float | None, **fields: str) -> Reading:
    created_at = None if seconds_ago is None else START - seconds_ago
    facts = Facts(owner="team-a", classification="high")
    return replace(fields_reading(**fields), created_at=created_at, facts=facts)


async def test_a_secret_younger_than_policy_wants_is_handed_out(bench: Bench) -> None:
    bench.policy.allowed = {"vault:secret/app": YOUNG}
    bench.vault.sources["secret/app"] = written(86_399, key=CANARY)
    assert (await bench.ask(KEY)).complete


@pytest.mark.parametrize("seconds_ago", [86_400, None], ids=["too old", "of unknown age"])
async def test_a_secret_too_old_or_of_unknown_age_is_denied_to_who_may_know(
    bench: Bench, seconds_ago: float | None
) -> None:
    bench.policy.allowed = {"vault:secret/app": YOUNG}
    bench.vault.sources["secret/app"] = written(seconds_ago, key=CANARY)
    resolution = await bench.ask(KEY)
    [refused] = resolution.results
    assert (refused.status, refused.code) == ("denied", "secret_too_old")
    [record] = bench.trail.events[0].references
    assert (record.reason, record.rule, record.owner, record.fingerprint) == ("age", "read young", "team-a", "")


async def test_a_secret_grows_too_old_while_it_is_remembered(bench: Bench) -> None:
    bench.policy.allowed = {"vault:secret/app": YOUNG}
    bench.vault.sources["secret/app"] = written(86_390, key=CANARY)
    assert (await bench.ask(KEY)).complete
    bench.clock.advance(10)
    assert (await bench.ask(KEY)).results[0].code == "secret_too_old"
    assert len(bench.vault.fetched) == 1


async def test_the_age_tells_nothing_to_who_has_no_rule(bench: Bench) -> None:
    bench.policy.allowed = {}
    bench.vault.sources["secret/app"] = written(99_999_999, key=CANARY)
    assert (await bench.ask(KEY)).results[0].code == "reference_denied"
    assert bench.vault.fetched == []


async def test_owner_and_classification_are_on_record(bench: Bench) -> None:
    bench.vault.sources["secret/app"] = written(1, key=CANARY)
    await bench.ask(KEY)
    [record] = bench.trail.events[0].references
    assert (record.owner, record.classification) == ("team-a", "high")


PREVIOUS = "vault:secret/app?version=previous#key"


class Rotated(FakeProvider):
    """Keeps two versions of one secret."""

    async def fetch(self, source: Source) -> Reading:
        reading = await super().fetch(source)
        return self.before if source.version == "previous" else reading

    before: Reading


@pytest.fixture
def rotated(bench: Bench) -> Bench:
    """A secret that was rotated a minute ago, with an overlap of an hour."""
    facts = Facts(overlap=3600.0)
    vault = Rotated({"secret/app": replace(written(60, key="new"), version="5", facts=facts)})
    vault.before = replace(written(9999, key="old"), version="4", facts=facts)
    bench.vault.fetch = vault.fetch
    bench.vault.sources = vault.sources
    bench.older = vault
    return bench


async def test_within_the_overlap_the_version_before_comes_too(rotated: Bench) -> None:
    [granted] = (await rotated.ask(KEY, previous=True)).results
    assert granted.value == SecretValue.from_bytes(b"new")
    assert (granted.previous.value, granted.previous.version) == (SecretValue.from_bytes(b"old"), "4")
    assert granted.previous.until == START - 60 + 3600
    records = rotated.trail.events[0].references
    assert [(record.reference, record.version) for record in records] == [(KEY, "5"), (PREVIOUS, "4")]
    assert all(record.fingerprint for record in records)


async def test_who_does_not_ask_for_it_gets_no_version_before(rotated: Bench) -> None:
    await rotated.ask(KEY, previous=True)
    [granted] = (await rotated.ask(KEY)).results
    assert granted.previous is None
    assert len(rotated.trail.events[-1].references) == 1


async def test_past_the_overlap_the_version_before_does_not_come(rotated: Bench) -> None:
    rotated.clock.advance(3540)
    assert (await rotated.ask(KEY, previous=True)).results[0].previous is None
    assert (await rotated.ask(PREVIOUS)).complete, "it can still be asked for by name"


async def test_without_an_overlap_in_the_metadata_the_version_before_does_not_come(rotated: Bench) -> None:
    reading = rotated.vault.sources["secret/app"]
    rotated.vault.sources["secret/app"] = replace(reading, facts=Facts())
    assert (await rotated.ask(KEY, previous=True)).results[0].previous is None


async def test_policy_decides_about_the_version_before_by_its_own_reference(rotated: Bench) -> None:
    rotated.policy.allowed = {KEY: ALLOW}
    assert (await rotated.ask(KEY, previous=True)).results[0].previous is None
    assert [str(reference) for reference, _ in rotated.policy.asked] == [KEY, PREVIOUS]


async def test_a_version_before_that_is_gone_is_no_failure(rotated: Bench) -> None:
    async def gone(source: Source) -> Reading:
        if source.version == "previous":
            raise SecretMissingError("deleted", part=MissingPart.DELETED)
        return rotated.vault.sources["secret/app"]

    rotated.vault.fetch = gone
    [granted] = (await rotated.ask(KEY, previous=True)).results
    assert (granted.value, granted.previous) == (SecretValue.from_bytes(b"new"), None)


async def test_a_version_before_that_is_not_the_one_before_is_left_out(rotated: Bench) -> None:
    rotated.older.before = replace(rotated.older.before, version="5")
    assert (await rotated.ask(KEY, previous=True)).results[0].previous is None


async def test_a_version_before_is_withheld_with_its_value(rotated: Bench) -> None:
    resolution = await rotated.ask(KEY, "vault:secret/foreign#a", previous=True)
    assert not resolution.complete
    assert all(not isinstance(result, Granted) for result in resolution.results)
    records = rotated.trail.events[0].references
    assert [(record.status, record.fingerprint) for record in records] == [
        ("withheld", ""),
        ("withheld", ""),
        ("denied", ""),
    ]

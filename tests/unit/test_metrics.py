"""The series: which begin at zero, and what they say when there is nothing to say."""

import math
from collections import Counter

from prometheus_client import CollectorRegistry

from broker.audit.event import EventKind
from broker.metrics import Metrics, Outlook
from broker.reload import PartName
from broker.web.tls.handshake import HandshakeOutcome
from tests.fakes import START, fake_metrics


def expecting() -> Metrics:
    metrics = fake_metrics()
    metrics.expect(
        providers=("env", "vault"),
        routes=("/v1/resolve",),
        handshakes=HandshakeOutcome,
        events=EventKind,
        parts=PartName,
    )
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_counters_begin_at_zero_so_that_a_rate_sees_their_first_increase() -> None:
    metrics = expecting()
    assert value(metrics, "broker_requests_total", route="/v1/resolve", status="503") == 0
    assert value(metrics, "broker_request_seconds_count", route="/v1/resolve") == 0
    assert value(metrics, "broker_references_total", provider="vault", outcome="stale") == 0
    assert value(metrics, "broker_references_total", provider="none", outcome="invalid") == 0
    assert value(metrics, "broker_handshakes_total", outcome="unknown_ca") == 0
    assert value(metrics, "broker_upstream_alarms_total", provider="vault", alarm="wrapping_token_used") == 0
    assert value(metrics, "broker_upstream_alarms_total", provider="env", alarm="pin") is None
    assert value(metrics, "broker_token_checks_total", outcome="binding_mismatch") == 0
    assert value(metrics, "broker_audit_events_total", kind="resolve") == 0
    assert value(metrics, "broker_policy_reloads_total", outcome="refused") == 0
    assert value(metrics, "broker_configuration_reloads_total", part="client_trust", outcome="refused") == 0
    assert value(metrics, "broker_configuration_reloads_total", part="policy", outcome="refused") is None


def test_no_area_takes_the_name_of_another_ones_series() -> None:
    """All of them are bases of one object, where the last of a name would count for both."""
    areas = [area(CollectorRegistry()) for area in Metrics.__bases__]
    taken = Counter(name for area in areas for name in vars(area))
    assert [name for name, areas_of_it in taken.items() if areas_of_it > 1] == []


def test_every_label_value_is_one_of_a_closed_set() -> None:
    metrics = expecting()
    before = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    samples = sum(len(family.samples) for family in metrics.registry.collect())
    assert "broker_references_total" in before
    assert samples < 320


def test_a_refused_policy_stays_visible_until_one_is_accepted() -> None:
    metrics = fake_metrics()
    metrics.policy_loaded(now=START)
    metrics.reload(part="policy", outcome="refused")
    assert value(metrics, "broker_policy_last_reload_successful") == 0
    assert value(metrics, "broker_policy_loaded_timestamp_seconds") == START
    metrics.policy_loaded(now=START + 2)
    metrics.reload(part="policy", outcome="accepted")
    assert value(metrics, "broker_policy_last_reload_successful") == 1


def test_an_outlook_tells_the_first_and_the_last_end_and_the_oldest_secret() -> None:
    metrics, outlook = fake_metrics(), Outlook()
    outlook.add(end=START + 20, created_at=None)
    outlook.add(end=START + 10, created_at=START - 5)
    outlook.add(end=START + 30, created_at=START - 2)
    metrics.cache_outlook({"vault": outlook})
    assert value(metrics, "broker_cache_usable_sources", provider="vault") == 3
    assert value(metrics, "broker_cache_next_end_timestamp_seconds", provider="vault") == START + 10
    assert value(metrics, "broker_cache_last_end_timestamp_seconds", provider="vault") == START + 30
    assert value(metrics, "broker_secret_oldest_created_timestamp_seconds", provider="vault") == START - 5


def test_an_empty_memory_has_no_end_and_no_oldest_secret() -> None:
    metrics = fake_metrics()
    metrics.cache_outlook({"vault": Outlook()})
    assert value(metrics, "broker_cache_usable_sources", provider="vault") == 0
    for name in ("cache_next_end", "cache_last_end", "secret_oldest_created"):
        found = value(metrics, f"broker_{name}_timestamp_seconds", provider="vault")
        assert found is not None
        assert math.isnan(found), name

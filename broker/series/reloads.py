"""Parts of the configuration that are read again while the broker runs."""

from collections.abc import Iterable
from itertools import product
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from broker.series.base import begin

_POLICY: Final = "policy"
_RELOAD_OUTCOMES: Final = ("accepted", "refused", "restart_needed")


class ReloadSeries:
    """Count readings of the policy and of every other part, and state whether the last one counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the series."""
        # outcome: accepted, refused.
        self._policy_reloads = Counter("broker_policy_reloads", "Policy files read.", ["outcome"], registry=registry)
        self._policy_loaded = Gauge(
            "broker_policy_loaded_timestamp_seconds", "When the policy in force was loaded.", registry=registry
        )
        self._policy_good = Gauge(
            "broker_policy_last_reload_successful", "1 when the policy file is the policy in force.", registry=registry
        )
        # part: a `PartName` of `reload.py` but the policy; outcome: accepted, refused, restart_needed.
        self._reloads = Counter(
            "broker_configuration_reloads",
            "Parts of the configuration read again.",
            ["part", "outcome"],
            registry=registry,
        )
        self._reload_good = Gauge(
            "broker_configuration_last_reload_successful",
            "1 when a part of the configuration is in force as its files stand.",
            ["part"],
            registry=registry,
        )

    def expect_reloads(self, *, parts: Iterable[str]) -> None:
        """Let the counters of these parts begin at 0, and let each be good: the start read its files."""
        others = tuple(part for part in parts if part != _POLICY)
        begin(self._policy_reloads, product(("accepted", "refused")))
        begin(self._reloads, product(others, _RELOAD_OUTCOMES))
        self._policy_good.set(1)
        for part in others:
            self._reload_good.labels(part).set(1)

    def reload(self, *, part: str, outcome: str) -> None:
        """Count one reading of a part of the configuration: accepted, refused or restart_needed."""
        if part == _POLICY:
            reloads, good = self._policy_reloads.labels(outcome), self._policy_good
        else:
            reloads, good = self._reloads.labels(part, outcome), self._reload_good.labels(part)
        reloads.inc()
        good.set(1 if outcome == "accepted" else 0)

    def policy_loaded(self, *, now: float) -> None:
        """State when the policy in force was loaded."""
        self._policy_loaded.set(now)

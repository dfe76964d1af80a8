"""Everything that `broker check-config` looks at, in the order of the settings."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from broker.assembly.parts import sealed_file, tls_files, webhook_verifier
from broker.clock import SystemClock
from broker.config import Settings
from broker.config_file import leaves
from broker.config_source import SettingsFaultsError, SettingsSource
from broker.errors import FetchError, PolicyInvalidError, SettingsInvalidError, SourceUnavailableError
from broker.finding import Finding, FoundError, Severity
from broker.metrics import Metrics
from broker.policy.engine import Policy
from broker.policy_file import load_policy
from broker.preflight.places import examine_addresses, examine_state
from broker.preflight.tls import examine_tls
from broker.providers.base import Provider, ProviderEntry, ProviderTools
from broker.providers.own_variables import OwnVariables
from broker.providers.registry import PROVIDERS, entry_for
from broker.tracing import require_extra

_ONLINE_SECONDS: Final = 15.0
_PATHS: Final = 100
_ANYWHERE: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  Compared with, not bound to.


def examine(source: SettingsSource, *, online: bool, running: bool) -> Iterator[Finding]:
    """Find what would fail after the start, and leave no trace. Blocks.

    Args:
        source: The settings.
        online: Also log in to the stores, and look at the mounts that the policy names.
        running: The broker with these settings is running, so that its ports are taken by itself.

    """
    try:
        settings = source.settings()
    except SettingsFaultsError as error:
        yield from error.findings
        return
    names = _names_of_files(settings)
    for finding in _examine(source, settings, online=online, running=running):
        name = names.get(finding.where)
        yield finding if name is None else replace(finding, where=f"{name}: {finding.where}")


def _names_of_files(settings: Settings) -> dict[str, str]:
    """Return the setting that names each file: who reads a finding knows the settings, and not always the file."""
    names: dict[str, str] = {}
    for name, value in leaves(settings).items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, Path | str) and Path(each).is_absolute():
                names.setdefault(str(each), name)
    return names


def _examine(source: SettingsSource, settings: Settings, *, online: bool, running: bool) -> Iterator[Finding]:
    yield from source.unknown_variables()
    yield from examine_state(settings.state_directory)
    if not running:
        listen, operations = settings.listen, settings.operations
        found = examine_addresses((listen.host, listen.port), (operations.host, operations.port))
        yield from map(_or_running, found)
    yield from examine_tls(tls_files(settings), hosts=_hosts(settings), now=time.time())
    yield from _examine_extras(settings)
    policy = None
    try:
        policy = load_policy(settings.policy_file)
    except PolicyInvalidError as error:
        yield _policy_finding(settings, error)
    # Before any provider is built, because one takes its variables out of the environment.
    tools = _tools(source, settings)
    for scheme in settings.providers:
        yield from _examine_provider(source, scheme, tools, policy, online=online)
    if policy is not None:
        yield from _switched_off(settings, policy)


def _or_running(finding: Finding) -> Finding:
    if finding.code != "port_taken":
        return finding
    return replace(finding, fix=f"if that is this broker, check with --running; else {finding.fix}")


def _examine_extras(settings: Settings) -> Iterator[Finding]:
    try:
        require_extra(settings.tracing)
        webhook_verifier(settings)
        sealed_file(settings)
    except FoundError as error:
        yield error.finding


def _hosts(settings: Settings) -> list[str]:
    named = [] if settings.listen.host in _ANYWHERE else [settings.listen.host]
    return [*named, *(host.rsplit(":", 1)[0] for host in settings.listen.allowed_hosts)]


def _policy_finding(settings: Settings, error: PolicyInvalidError) -> Finding:
    file = str(settings.policy_file)
    where = f"{file}:{error.line}:{error.column}" if error.line else file
    return Finding(
        code="policy_invalid",
        where=where,
        why=error.detail.removeprefix(f"{file}: "),
        fix="see the examples in deploy/policies",
    )


def _switched_off(settings: Settings, policy: Policy) -> Iterator[Finding]:
    used = {pattern.scheme for rule in policy.rules if rule.allows for pattern in rule.patterns}
    for scheme in sorted(used - set(settings.providers)):
        yield Finding(
            code="policy_scheme_off",
            where=str(settings.policy_file),
            why=f"allows {scheme}: references, and the settings have no providers.{scheme}",
            fix=f"add the section providers.{scheme}, or remove the rule",
            severity=Severity.WARNING,
        )


def _examine_provider(
    source: SettingsSource, scheme: str, tools: ProviderTools, policy: Policy | None, *, online: bool
) -> Iterator[Finding]:
    where = f"providers.{scheme}"
    try:
        entry = entry_for(scheme)
    except SettingsInvalidError as error:
        why = error.detail.removeprefix(f"{where}: ")
        yield Finding(code="provider_unknown", where=where, why=why, fix="correct the name of the section")
        return
    try:
        model = source.section(entry.settings, source.settings().providers[scheme], path=("providers", scheme))
    except SettingsFaultsError as error:
        yield from error.findings
        return
    found = list(entry.examine(model, tools))
    yield from found
    if not online:
        return
    if entry.spends_credential(model):
        why = "was not asked, because the login would use up its wrapped credential"
        fix = "start the broker, and look at its readiness"
        yield Finding(code="source_not_asked", where=where, why=why, fix=fix, severity=Severity.WARNING)
    # With an error in its files a login would fail for sure, and stores count failed logins.
    elif all(each.severity is not Severity.ERROR for each in found):
        # Made outside of the loop, because a provider may read its files then.
        yield from asyncio.run(_ask(entry, entry.build(model, tools), policy))


async def _ask(entry: ProviderEntry, provider: Provider, policy: Policy | None) -> list[Finding]:
    where = f"providers.{entry.scheme}"
    found: list[Finding] = []
    try:
        async with asyncio.timeout(_ONLINE_SECONDS):
            await provider.ping()
            if policy is not None:
                found = [finding async for finding in _denied(entry, provider, policy)]
    except FetchError as error:
        why, _, fix = error.detail.partition("; ")
        why, fix = f"{why}{_said(error)}", fix or "look at it and at the way there"
        found.append(Finding(code="source_unavailable", where=where, why=why, fix=fix))
    except TimeoutError:
        why = f"did not answer within {_ONLINE_SECONDS:g} seconds"
        found.append(Finding(code="source_unavailable", where=where, why=why, fix="look at it and at the way there"))
    finally:
        await provider.aclose()
    return found


async def _denied(entry: ProviderEntry, provider: Provider, policy: Policy) -> AsyncIterator[Finding]:
    """Look at each path that the policy allows, as far as it names one."""
    if entry.reach is None:
        return
    for path in _paths(entry.scheme, policy):
        try:
            await entry.reach(provider, path)
        except SourceUnavailableError:
            raise
        except FetchError as error:
            yield Finding(
                code="source_denied",
                where=f"{entry.scheme}:{path}",
                why=f"the policy allows it, and {error.detail}{_said(error)}",
                fix="give the broker's role the right there, or remove the rule",
            )


def _said(error: FetchError) -> str:
    """Return what the source was asked and what it said, in brackets, "" when it said nothing."""
    return "" if error.words is None else f" ({error.words.asked}: {error.words.said})"


def _paths(scheme: str, policy: Policy) -> list[str]:
    found = {
        "/".join(takewhile(lambda segment: "*" not in segment, pattern.segments))
        for rule in policy.rules
        if rule.allows
        for pattern in rule.patterns
        if pattern.scheme == scheme
    }
    return sorted(found - {""})[:_PATHS]


def _tools(source: SettingsSource, settings: Settings) -> ProviderTools:
    metrics = Metrics(registry=CollectorRegistry(), version=version("logflux-broker"))
    return ProviderTools(
        clock=SystemClock(),
        observer=metrics,
        max_value_bytes=settings.limits.max_value_bytes,
        own=_own_variables(source, settings),
    )


def _own_variables(source: SettingsSource, settings: Settings) -> OwnVariables:
    """Return the variables that hold credentials of the broker itself; none where their section has a fault."""
    for entry in PROVIDERS:
        if entry.own is None or entry.scheme not in settings.providers:
            continue
        with suppress(SettingsFaultsError):
            section = settings.providers[entry.scheme]
            return entry.own(source.section(entry.settings, section, path=("providers", entry.scheme)))
    return OwnVariables()

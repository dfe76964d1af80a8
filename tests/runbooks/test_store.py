"""Walks through the pages about the store, and the way to it."""

import datetime as dt
import re
from collections.abc import Callable, Iterator

import pytest
import yaml

from broker.cli.sandbox import Sandbox
from broker.cli.sandbox_store import BROKER_RULES_IN_THE_STORE
from broker.key_file import write_private
from tests.certificates import TestAuthority
from tests.openbao import OpenBao
from tests.relays import relaying
from tests.runbooks.walking import API_KEY, Walk, ask, hanging, sealed
from tests.vaults import private
from tests.waiting import wait_until

# Alerts take their time to come and to go, on a loaded machine more of it.
pytestmark = pytest.mark.timeout(300)

CHECK, SEARCH = "broker check-config", "broker audit search"
READYZ, METRICS = "curl -s http://127.0.0.1:9102/readyz", "curl -s http://127.0.0.1:9102/metrics"
CERTIFICATE = "vault:pki/issue/agent?common_name=a.example#certificate"
FIRST = "vault:secret/logflux?version=1#api_key"


def status_of(walk: Walk, reference: str = API_KEY) -> str:
    return str(walk.resolve(reference).json["results"][0]["status"])


def test_store_unreachable(walk: Walk) -> None:
    walk.change_policy("fresh_for: 5m\n    max_stale: 1h", "fresh_for: 1s\n    max_stale: 10m")
    walk.start()
    assert walk.resolve().status == 200
    walk.is_quiet()

    with sealed(walk.place):
        walk.raises()
        # What was read lately goes on; what was not is refused at once, and told when to come again.
        wait_until(lambda: status_of(walk) == "stale", "it goes on, marked")
        refused = walk.resolve(FIRST)
        assert (refused.status, "Retry-After" in refused.headers) == (503, True)
        walk.run("curl").says("is sealed")
        walk.run(CHECK, status=3).says("sealed").has("error[source_unavailable]")
        walk.run(SEARCH).has(f"{FIRST}=unavailable")
        assert "Sealed true" in " ".join(walk.run("bao status", status=2).output.split())
    walk.ends()
    assert walk.page.says("the broker goes on at its next look")
    wait_until(lambda: walk.resolve(FIRST).status == 200, "the store is used again")


def test_store_unreachable_because_the_login_is_refused(walk: Walk) -> None:
    file = walk.path("/etc/logflux-broker/vault/secret_id")
    private(file, "00000000-0000-0000-0000-000000000000")
    walk.start(path="/livez")
    walk.raises("BrokerStoreUnreachable")
    walk.run("curl").says("the broker's login")
    walk.run(CHECK, status=3).has("error[source_unavailable]")
    good = ask(walk.place, "POST", "auth/approle/role/broker/secret-id")["data"]["secret_id"]
    private(file, good)
    walk.ends("BrokerStoreUnreachable")
    wait_until(lambda: walk.resolve().status == 200, "the store is used again")


def test_stale_answers(walk: Walk) -> None:
    walk.change_policy("fresh_for: 5m", "fresh_for: 1s")
    walk.start()
    assert walk.resolve().status == 200
    walk.is_quiet()

    with sealed(walk.place):
        wait_until(lambda: status_of(walk) == "stale", "it is handed out stale")
        walk.raises()
        wait_until(lambda: "sealed" in walk.run(READYZ).output, "/readyz names it")
        walk.run(METRICS).has('outcome="unavailable",provider="vault"}')
        walk.run(SEARCH).says("=stale").has(f"{API_KEY}=stale")
        # The value must not be used any longer, although its source is away.
        walk.run("broker cache invalidate")
        assert walk.resolve().status == 503
    wait_until(lambda: walk.resolve().status == 200, "the store is used again")
    walk.ends()


def test_budget_exhausted(walk: Walk) -> None:
    walk.change_settings(providers={"vault": {"requests_per_second": 5, "total_seconds": 1}}, cache={"max_entries": 1})
    walk.start()
    walk.is_quiet()

    many = [f"vault:secret/logflux?version={number}#api_key" for number in range(1, 30)]
    walk.resolve(*many)
    # A memory that is too small drops the one for the other, again and again.
    for reference in (API_KEY, FIRST, API_KEY):
        wait_until(lambda: walk.resolve(reference).status == 200, "it gets its turn")  # noqa: B023  Called here.
    walk.raises()
    shown = walk.run("curl").says("broker_upstream_refused_total", "broker_cache_evictions_total", 'result="miss"')
    assert counted(shown.output, "broker_upstream_refused_total") >= 1
    assert counted(shown.output, "broker_cache_evictions_total") >= 1
    walk.run(SEARCH).says("unavailable").has("=unavailable(source_unavailable)")

    walk.change_settings(providers={"vault": {"requests_per_second": 200}}, cache={"max_entries": 100})
    walk.restart()
    walk.resolve(*many)
    walk.ends()
    assert counted(walk.run("curl").output, "broker_cache_evictions_total") == 0


def counted(output: str, series: str) -> float:
    return float(next(line.split()[-1] for line in output.splitlines() if line.startswith(series)))


def test_clock_skew(walk: Walk) -> None:
    file = walk.here.work / "shift"
    walk.environment = {"WALL_SHIFT": str(file)}
    walk.start()
    walk.is_quiet()

    file.write_text("90")
    walk.raises()
    assert walk.resolve().status == 200
    ahead = counted(walk.run("curl").output, "broker_clock_skew_seconds")
    assert walk.page.says("Positive: the broker is ahead of the store")
    assert 80 < ahead < 100
    right = dt.datetime.strptime(walk.run("date").output.strip(), "%a %b %d %H:%M:%S UTC %Y").replace(tzinfo=dt.UTC)
    said = dt.datetime.fromisoformat(walk.run(SEARCH).output.split()[0])
    assert (said - right).total_seconds() > 60

    file.write_text("0")
    walk.ends()


def test_secret_old(walk: Walk) -> None:
    began = dt.datetime.now(dt.UTC)

    def aged(found: re.Match[bytes]) -> bytes:
        made = dt.datetime.fromisoformat(f"{found[1].decode()}+00:00")
        kept = made - dt.timedelta(days=91) if made < began else made
        return f'"created_time":"{kept:%Y-%m-%dT%H:%M:%S}'.encode()

    with relaying(walk.place.store_address) as old:
        # No real store can be told that it wrote something 91 days ago; this one says so of all that it has.
        old.rewrite = lambda answer: re.sub(rb'"created_time":"([\dT:-]{19})', aged, answer)
        walk.here.environment["BAO_ADDR"] = old.address
        walk.change_settings(providers={"vault": {"address": old.address}})
        walk.change_policy("fresh_for: 5m", "fresh_for: 1s")
        walk.start()
        walk.is_quiet()
        assert walk.resolve().status == 200
        walk.raises()
        walk.run(SEARCH).has(f"{API_KEY}=ok")
        walk.run("bao kv metadata get").has(f"{began - dt.timedelta(days=91):%Y-%m-}", '"current_version": 1')

        ask(walk.place, "POST", "secret/data/logflux", data={"api_key": "the next one"})
        wait_until(lambda: walk.resolve().json["results"][0]["value"] == "the next one", "agents get it")
        walk.ends()
        walk.run("bao kv metadata get").has('"current_version": 2')


def test_slo_burns(walk: Walk) -> None:
    soon = {"total_seconds": 1}
    walk.change_settings(
        providers={"vault": {**soon, "login_timeouts": soon, "health_timeouts": soon, "probe_seconds": 1}}
    )
    walk.change_policy("fresh_for: 5m", "fresh_for: 1s")
    walk.start()
    assert walk.resolve().status == 200
    walk.is_quiet()

    with hanging(walk.place):
        # Slow and refused, what memory does not have; stale, what it has.
        assert walk.resolve(FIRST).status == 503
        wait_until(lambda: status_of(walk) == "stale", "it is handed out stale")
        walk.raises()
        wait_until(lambda: "does not answer in time" in walk.run(READYZ).output, "/readyz names it")
        walk.run(SEARCH).has(f"{FIRST}=unavailable")
        shown = walk.run(METRICS).says("broker_audit_commit_seconds", "broker_upstream_seconds").output
    assert 'broker_requests_total{route="/v1/resolve",status="503"}' in shown
    # The sum over the count tells the store from the audit's disk.
    disk, store = (
        counted(shown, f"{name}_sum") / counted(shown, f"{name}_count")
        for name in ("broker_audit_commit_seconds", "broker_upstream_seconds")
    )
    assert store > disk

    wait_until(lambda: status_of(walk) == "ok", "the store answers")

    def good_again() -> bool:
        walk.resolve()
        return not any(walk.watcher.raised_lately(alert) for alert in walk.page.alerts)

    wait_until(good_again, "every objective is met")


@pytest.fixture
def issuing(store: Sandbox) -> Iterator[Callable[..., None]]:
    """Return what gives the broker's role rights at an engine that issues certificates, and take them back after."""
    ask(store, "POST", "sys/mounts/pki", type="pki")
    ask(store, "POST", "pki/root/generate/internal", common_name="leases", ttl="24h")
    ask(
        store,
        "POST",
        "pki/roles/agent",
        allowed_domains="a.example",
        allow_bare_domains=True,
        max_ttl="1h",
        key_type="ec",
    )

    def allow(*paths: str) -> None:
        rules = [f'path "{path}" {{ capabilities = ["update"] }}' for path in paths]
        ask(store, "PUT", "sys/policies/acl/broker", policy="\n".join([BROKER_RULES_IN_THE_STORE, *rules]))

    yield allow
    allow()
    ask(store, "DELETE", "sys/mounts/pki")


def test_leases_not_revoked(walk: Walk, issuing: Callable[..., None]) -> None:
    held, tried = "broker leases", "curl"
    issuing("pki/issue/agent")
    policy = walk.path("/etc/logflux-broker/policy.yaml")
    without = policy.read_text()
    policy.write_text(f'{without}  - {{ name: certificates, allow: ["{CERTIFICATE}"], to: [shipper] }}\n')
    walk.start()
    walk.is_quiet()
    assert walk.resolve(CERTIFICATE).status == 200

    policy.write_text(without)
    walk.raises()
    assert counted(walk.run(tried).output, 'broker_lease_events_total{event="revoke_failed"') >= 1
    walk.run(held).says("revoking").has("spiffe://prod.example/logflux/shipper", "vault:pki/issue/agent")
    walk.run(SEARCH).says("reason=revoke_denied").has("spiffe://prod.example/logflux/shipper")
    walk.run("journalctl").says("lease_not_revoked", "pki/revoke")
    assert "pki/revoke" not in walk.run("bao policy read").output

    issuing("pki/issue/agent", "pki/revoke")
    wait_until(lambda: "lease_" not in walk.run(held).output, "the broker tries again")
    assert counted(walk.run(tried).output, 'broker_lease_events_total{event="revoked"') == 1
    walk.ends()


@pytest.fixture
def tls_store(walk: Walk) -> Iterator[OpenBao]:
    """Run a store that speaks TLS, which gives the broker its secret id wrapped."""
    authority = TestAuthority(walk.here.work / "store-pki")
    leaf = authority.leaf(dns=("localhost",), ips=("127.0.0.1",), eku="server")
    store = OpenBao(walk.here.work / "openbao", tls=leaf)  # type: ignore[arg-type]  The same two names.
    store.mount("secret", options={"version": "2"})
    store.put_secret("logflux", api_key="over TLS")
    store.policy("broker", 'path "secret/*" { capabilities = ["read", "list"] }')
    role, _ = store.approle("broker", ["broker"])
    walk.path("/etc/logflux-broker/vault/role_id").write_text(role)
    walk.path("/etc/logflux-broker/store-ca.crt").write_bytes(authority.ca_path.read_bytes())
    file = walk.place.settings_file
    settings = yaml.safe_load(file.read_text())
    settings["providers"]["vault"] = {
        "address": store.address,
        "ca_file": str(walk.path("/etc/logflux-broker/store-ca.crt")),
        "auth": {
            "approle": {
                "role_id_file": str(walk.path("/etc/logflux-broker/vault/role_id")),
                "wrapped_secret_id_file": str(walk.path("/etc/logflux-broker/vault/wrapped")),
                "role_name": "broker",
            }
        },
    }
    file.write_text(yaml.safe_dump(settings))
    yield store
    store.close()


def wrapped(store: OpenBao, path: str = "auth/approle/role/broker/secret-id") -> str:
    answer = store.request("POST", path, {}, headers={"X-Vault-Wrap-TTL": "5m"})
    return str(answer.document["wrap_info"]["token"])


def test_store_alarm(walk: Walk, tls_store: OpenBao) -> None:
    journal, alarms = "journalctl", METRICS
    file = walk.path("/etc/logflux-broker/vault/wrapped")
    stolen = wrapped(tls_store)
    tls_store.write("sys/wrapping/unwrap", {"token": stolen})
    write_private(file, stolen.encode())
    walk.start(path="/livez")
    walk.raises()
    walk.run(alarms).says("wrapping_token_used").has('alarm="wrapping_token_used",provider="vault"} 1.0')
    walk.run(READYZ).has("the wrapping token has been opened before")
    walk.run(CHECK).says("source_not_asked")
    walk.run(journal).says("store_alarm", "wrapping_token_used")

    private(file, wrapped(tls_store))
    wait_until(lambda: walk.broker.operations("/readyz").status == 200, "the new wrapping token is good")
    wait_until(lambda: walk.resolve().status == 200, "the store is used")
    private(file, wrapped(tls_store))
    walk.restart()
    walk.ends()


def test_store_alarm_of_the_files_and_of_the_certificate(walk: Walk, tls_store: OpenBao) -> None:
    file, trust = (walk.path(f"/etc/logflux-broker/{name}") for name in ("vault/wrapped", "store-ca.crt"))
    write_private(file, wrapped(tls_store).encode())
    walk.start()
    walk.is_quiet()
    good = trust.read_bytes()
    trust.write_text("nonsense")
    walk.raises()
    walk.run(METRICS).says("files").has('alarm="files",provider="vault"} 1.0')
    walk.run("journalctl").says("store_files_refused")
    walk.run(CHECK, status=3).says("store_files")
    assert walk.resolve().status == 200, "the old connections stay as they are"

    # Somebody stands between the two, whose certificate another authority has made.
    trust.write_bytes(TestAuthority(walk.here.work / "others").ca_path.read_bytes())
    wait_until(lambda: "is not trusted" in walk.run(READYZ).output, "/readyz names it")
    walk.run(READYZ).has("look at providers.vault.ca_file")
    walk.run(METRICS).says("certificate").has('alarm="certificate",provider="vault"} 1.0')
    trust.write_bytes(good)
    wait_until(lambda: walk.broker.operations("/readyz").status == 200, "the store is trusted again")

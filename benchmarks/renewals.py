"""Let the renewals of thousands of real leases fall due at one moment, and count at a real store what they cost it.

The leases are credentials that OpenBao makes in a real PostgreSQL, for many identities, each under a token of its own
as docs/how-to/dynamic-credentials.md sets it up. Both clocks of the broker are advanced until all of them are due.
Requests are counted in the store's audit log, leases at the store and accounts in PostgreSQL. Timings are printed and
never fail anything; a lease that is lost does.
"""

import argparse
import http.client
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.audit_log import Asked, of_the_broker
from benchmarks.place import Json, Place
from tests.faults.asked import peak
from tests.leasing import LEASE_RULES
from tests.openbao import OpenBao
from tests.postgres import PostgreSQL

# As many leases as one identity has, a little below what it may have by default.
EACH: Final = 250
LIFE: Final = 3600
# What all of them have fallen due after, and no login and no certificate has ended.
LATER: Final = 0.7 * LIFE
RENEWAL: Final = "sys/leases/renew"
_MINTS: Final = 'path "database/creds/*" { capabilities = ["read"] }'
_SEES: Final = 'path "database/creds/*" { capabilities = ["list"] }'


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What became of leases that had fallen due at one moment.

    Attributes:
        minted_in: Seconds in which they were minted.
        asked: Every request of the broker in the store's audit log from that moment on.
        left: Seconds that each of the leases has left, at the store.
        accounts: Accounts in PostgreSQL.
        kept: Leases that their identities are still answered from.
        events: What the broker counted of its leases, by event.

    """

    minted_in: float
    asked: list[Asked]
    left: list[float]
    accounts: int
    kept: int
    events: dict[str, int]

    @property
    def renewals(self) -> Counter[str]:
        """Return how often each lease was renewed."""
        return Counter(one.lease for one in self.asked if one.path == RENEWAL)

    @property
    def took(self) -> float:
        """Return the seconds from the first of these requests to the last."""
        return self.asked[-1].at - self.asked[0].at


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leases", type=int, default=1_000, help="how many; the promise names 10000 (%(default)s)")
    parser.add_argument("--requests-per-second", type=int, default=200, metavar="N", help="the budget (%(default)s)")
    arguments = parser.parse_args()
    leases, per_second = arguments.leases, arguments.requests_per_second
    print(f"{leases} leases are minted, by three requests each out of {per_second} a second ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="logflux-renewals-") as directory, closing(PostgreSQL()) as postgres:
        seen = due_together(Path(directory), postgres, leases=leases, per_second=per_second)
    renewals, events = seen.renewals, seen.events
    print(f"  in {seen.minted_in:.0f} s; then all fall due at one moment")
    print(f"  renewed, in the store's audit log: {len(renewals)}, of these more than once: {_more_than_once(renewals)}")
    print(f"  alive at the store: {len(seen.left)}, the shortest for {min(seen.left, default=0):.0f} s of {LIFE}")
    print(f"  accounts in PostgreSQL: {seen.accounts}; answered from the same lease as before: {seen.kept}")
    print(f"  counted by the broker: {events}")
    print(
        f"  {len(seen.asked)} requests of the broker in {seen.took:.1f} s: {len(seen.asked) / seen.took:.0f} a second"
    )
    for seconds in (0.1, 1.0, 2.0, 10.0):
        most = peak(seen.asked, seconds)
        print(f"  the most in any {seconds:4.1f} s: {most:5}, {most / seconds / per_second:.2f} of the budget")
    return 0 if len(renewals) == len(seen.left) == seen.accounts == seen.kept == leases else 1


def due_together(directory: Path, postgres: PostgreSQL, *, leases: int, per_second: int) -> Seen:
    """Mint `leases`, advance the clocks until all of them are due, and tell what came of it."""
    with closing(OpenBao(directory / "openbao", audit=directory / "audit.log")) as store:
        roles = min(leases, EACH)
        _prepare(store, postgres, roles=roles)
        identities = -(-leases // EACH)
        place = Place(
            directory, store, identities=identities, allow=["vault:database/creds/*#*"], rules=_SEES + LEASE_RULES
        )
        vault = {"lease_token_role": "broker-leases", "requests_per_second": per_second}
        with place.broker(vault, module="tests.shifting", leases={"revoke_at_stop": False}):
            began = time.monotonic()
            before = list(_leases(place, leases))
            minted_in = time.monotonic() - began
            since = time.time()
            place.advance(LATER)
            events = _settled(place, leases)
            asked = sorted(of_the_broker(directory / "audit.log", since=since), key=lambda one: one.at)
            after = list(_leases(place, leases))
        return Seen(
            minted_in=minted_in,
            asked=asked,
            left=list(_left(store, roles)),
            accounts=len(postgres.roles()),
            kept=sum(old == new for old, new in zip(before, after, strict=True)),
            events=events,
        )


def _prepare(store: OpenBao, postgres: PostgreSQL, *, roles: int) -> None:
    postgres.behind(store)
    for number in range(roles):
        postgres.role(store, f"app-{number}", default_ttl=f"{LIFE}s")
    store.policy("minter", _MINTS)
    store.write(
        "auth/token/roles/broker-leases",
        {"orphan": True, "renewable": True, "allowed_policies": "minter", "token_no_default_policy": True},
    )


def _leases(place: Place, leases: int) -> Iterator[tuple[str, str]]:
    """Yield id and user of every lease, in order; what is not there yet is minted."""
    for number, agent in enumerate(place.agents):
        count = min(EACH, leases - number * EACH)
        for result in place.resolve(agent, [f"vault:database/creds/app-{role}#username" for role in range(count)]):
            yield result["lease"]["id"], result["value"]


def _settled(place: Place, leases: int) -> dict[str, int]:
    """Wait until something has become of every lease, and return what."""
    while True:
        counted = place.metrics("broker_lease_events_total")
        events = {labels.split('"')[1]: int(value) for labels, value in counted.items() if value}
        if events.get("renewed", 0) + events.get("lost", 0) + events.get("ended", 0) >= leases:
            return events
        time.sleep(0.5)


def _left(store: OpenBao, roles: int) -> Iterator[float]:
    """Yield the seconds that each lease has left, as the store says when it is asked for each of them."""
    connection = http.client.HTTPConnection("127.0.0.1", store.port, timeout=60)

    def ask(method: str, path: str, body: Json) -> Json:
        connection.request(method, f"/v1/{path}", json.dumps(body), {"X-Vault-Token": store.root_token})
        answer = connection.getresponse()
        document = json.loads(answer.read())
        return dict(document["data"]) if answer.status == http.HTTPStatus.OK else {}

    with closing(connection):
        for role in range(roles):
            prefix = f"database/creds/app-{role}"
            for key in ask("GET", f"sys/leases/lookup/{prefix}?list=true", {}).get("keys", ()):
                yield float(ask("PUT", "sys/leases/lookup", {"lease_id": f"{prefix}/{key}"}).get("ttl", 0))


def _more_than_once(renewals: Counter[str]) -> int:
    return sum(1 for times in renewals.values() if times > 1)


if __name__ == "__main__":
    sys.exit(main())

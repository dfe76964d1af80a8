"""Leases that a real store has minted in a real PostgreSQL fall due at one moment, counted by its audit log."""

from pathlib import Path
from typing import Final

from benchmarks.renewals import LIFE, due_together
from tests.faults.asked import peak
from tests.faults.figures import Figure, write_figure
from tests.postgres import PostgreSQL, postgres

__all__ = ["postgres"]
LEASES: Final = 300
PER_SECOND: Final = 200
# Of those that are renewed at once, some get their turn before the first has come to the store.
_UNDER_WAY: Final = 16


def test_real_leases_that_fall_due_together_are_all_renewed_once_within_the_budget(
    postgres: PostgreSQL, tmp_path: Path
) -> None:
    seen = due_together(tmp_path, postgres, leases=LEASES, per_second=PER_SECOND)
    assert seen.events == {"minted": LEASES, "renewed": LEASES}
    assert len(seen.renewals) == LEASES
    assert set(seen.renewals.values()) == {1}
    assert len(seen.left) == LEASES
    assert min(seen.left) > LIFE / 2
    assert seen.accounts == seen.kept == LEASES
    for seconds in (0.5, 1.0, 2.0):
        allowed = PER_SECOND * max(1, seconds) + _UNDER_WAY
        assert peak(seen.asked, seconds) <= allowed, f"the budget of {seconds} s"
    write_figure(
        "leases-real",
        Figure(
            name=f"{LEASES} leases of a real store and a real PostgreSQL fall due together, budget {PER_SECOND} "
            "requests a second",
            promised="each is renewed once and none is lost; in no second more than the budget, counted in the store's "
            "audit log; `make bench-renewals ARGS='--leases 10000'` does it with as many",
            seen=f"{len(seen.renewals)} renewed by {len(seen.asked)} requests in {seen.took:.1f} s, at most "
            f"{peak(seen.asked)} in one second; {len(seen.left)} leases at the store, {seen.accounts} accounts in "
            "PostgreSQL",
        ),
    )

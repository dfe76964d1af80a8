"""Certificates that a PKI engine issued and whose answer never came: looked for by name and time."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from hvac.utils import format_url

from broker.providers.vault.exchange.answers import NOT_FOUND, StoreAnswerError, bad_answer, unavailable
from broker.providers.vault.leasing.certificates import DATED_BACK_SECONDS, Certificate
from broker.providers.vault.own_token.questions import Questions
from broker.reference import Source

_PAGE: Final = 1000
# How far the two clocks may be apart, and how long the engine may take.
_AROUND_SECONDS: Final = 60.0


class IssuedCertificates:
    """Look into the PKI mounts that issue to this broker alone: in no other is what nobody here knows ours."""

    def __init__(self, *, questions: Questions, mounts: Sequence[str]) -> None:
        """Keep the collaborators; `mounts` are paths without slash at the end."""
        self._questions = questions
        self._mounts = frozenset(mounts)

    async def around(self, source: Source, *, created: float) -> Sequence[Certificate]:
        """Return what was issued for `source` about the wall time `created`; none where that can't be told.

        Raises:
            FetchError: The store can't be asked, or denies it.

        """
        mount, slash, _ = source.path.partition("/issue/")
        name = dict(source.parameters).get("common_name")
        if not slash or name is None or mount not in self._mounts:
            return ()
        earliest = created - DATED_BACK_SECONDS - _AROUND_SECONDS
        latest = created - DATED_BACK_SECONDS + _AROUND_SECONDS
        found: list[Certificate] = []
        after = ""
        while True:
            serials, facts = await self._page(mount, after)
            found += (
                Certificate(mount, serial) for serial, begins in _begins(facts, name) if earliest <= begins <= latest
            )
            if len(serials) < _PAGE:
                return found
            after = serials[-1]

    async def _page(self, mount: str, after: str) -> tuple[list[str], Mapping[str, Any]]:
        page = {"list": "true", "limit": str(_PAGE), **({"after": after} if after else {})}
        try:
            document = await self._questions.get(format_url("/v1/{}/certs/detailed", mount), page, mount=mount)
            data = document["data"]
            serials, facts = data["keys"], data["key_info"]
        except StoreAnswerError as error:
            if error.status == NOT_FOUND:
                # Nothing comes after, or the store is of a kind that has no such listing.
                return [], {}
            raise unavailable(error) from None
        except (KeyError, TypeError):
            raise bad_answer() from None
        if not isinstance(serials, list) or not isinstance(facts, dict):
            raise bad_answer()
        return [str(serial) for serial in serials], facts


def _begins(facts: Mapping[str, Any], name: str) -> Iterator[tuple[str, float]]:
    """Yield serial number and begin of each certificate of that common name."""
    for serial, fact in facts.items():
        if isinstance(fact, dict) and fact.get("common_name") == name:
            try:
                yield serial, datetime.fromisoformat(str(fact["not_before"])).timestamp()
            except (KeyError, ValueError):
                raise bad_answer() from None

"""The broker's operations listener, asked as a platform and as Prometheus ask it."""

import json
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families


class Operations:
    """Ask at `port`."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def readyz(self) -> tuple[int, dict[str, Any]]:
        """Return the status of `/readyz`, and what it says of the store."""
        status, text = await self._get("/readyz")
        return status, dict(json.loads(text)["dependencies"]["vault"])

    async def series(self, name: str, **labels: str) -> float:
        """Return a series of `/metrics`; one that nothing has been counted in is 0."""
        _, text = await self._get("/metrics")
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        assert any(one.name == name for one in samples), f"there is no {name}"
        return next((one.value for one in samples if one.name == name and one.labels == labels), 0.0)

    async def _get(self, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}{path}") as answer,
        ):
            return answer.status, await answer.text()

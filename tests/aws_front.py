"""The AWS auth method, which OpenBao lacks: checks the signature as AWS would, and lets a real store do the rest."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from tests.openbao import OpenBao

_BODY = "Action=GetCallerIdentity&Version=2011-06-15"


@dataclass
class AwsFront:
    """What AWS knows of the broker, and what the store wants to see."""

    store: OpenBao
    access_key: str = "AKIDEXAMPLE"
    secret_key: str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    session_token: str | None = None
    server_id: str | None = None
    policies: tuple[str, ...] = ("reader",)
    address: str = ""
    logins: list[dict[str, Any]] = field(default_factory=list)

    async def login(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.logins.append(asked)
        fault = self._fault(asked)
        if fault:
            return web.json_response({"errors": [fault]}, status=400)
        created = self.store.write("auth/token/create", {"policies": self.policies, "no_parent": True, "ttl": "1h"})
        return web.json_response({"auth": created["auth"], "data": None})

    def _fault(self, asked: dict[str, Any]) -> str:
        """Return why this is no signed GetCallerIdentity of ours; "" when it is."""
        headers = {name: values[0] for name, values in json.loads(_decoded(asked, "iam_request_headers")).items()}
        signed = asked["iam_http_request_method"] == "POST" and _decoded(asked, "iam_request_body") == _BODY
        if not signed or _decoded(asked, "iam_request_url") != "https://sts.amazonaws.com/":
            return "no GetCallerIdentity"
        if headers.get("X-Vault-AWS-IAM-Server-ID") != self.server_id:
            return "error validating X-Vault-AWS-IAM-Server-ID header"
        if headers.get("X-Amz-Security-Token") != self.session_token:
            return "the security token is not valid"
        algorithm, _, rest = headers["Authorization"].partition(" ")
        parts = dict(part.split("=", 1) for part in rest.split(", "))
        key_id, day, region, service, end = parts["Credential"].split("/")
        names = parts["SignedHeaders"].split(";")
        if (algorithm, key_id, service, end) != ("AWS4-HMAC-SHA256", self.access_key, "sts", "aws4_request"):
            return "no signature of version 4"
        lower = {name.lower(): value for name, value in headers.items()}
        if set(names) != set(lower) - {"authorization"} or not headers["X-Amz-Date"].startswith(day):
            return "a header is not signed"
        canonical = "\n".join(
            ["POST", "/", "", *(f"{name}:{lower[name]}" for name in names), "", ";".join(names), _hash(_BODY)]
        )
        scope = f"{day}/{region}/sts/aws4_request"
        text = "\n".join([algorithm, headers["X-Amz-Date"], scope, _hash(canonical)])
        key = f"AWS4{self.secret_key}".encode()
        for part in (day, region, "sts", "aws4_request", text):
            key = hmac.new(key, part.encode(), "sha256").digest()
        return "" if hmac.compare_digest(key.hex(), parts["Signature"]) else "the signature does not match"


@asynccontextmanager
async def aws_front(store: OpenBao, **facts: Any) -> AsyncIterator[AwsFront]:
    front = AwsFront(store=store, **facts)
    async with aiohttp.ClientSession() as session:

        async def relay(request: web.Request) -> web.Response:
            headers = {name: value for name, value in request.headers.items() if name.startswith("X-Vault-")}
            async with session.request(
                request.method, front.store.address + request.path_qs, headers=headers, data=await request.read()
            ) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

        app = web.Application()
        app.router.add_post("/v1/auth/aws/login", front.login)
        app.router.add_route("*", "/{rest:.*}", relay)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        front.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield front
        finally:
            await runner.cleanup()


def _decoded(asked: dict[str, Any], name: str) -> str:
    return base64.b64decode(asked[name]).decode()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

"""The one endpoint of a Kubernetes API server that the store asks at a login: TokenReview."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from tests.answering import answering
from tests.certificates import TestAuthority


@dataclass
class Cluster:
    """A cluster with its service accounts; `reviews` is what it was asked about."""

    port: int = 0
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    reviews: list[str] = field(default_factory=list)

    def token(self, *, namespace: str, account: str, seconds: int = 600) -> str:
        """Return a token as the kubelet projects it."""
        now = int(time.time())
        about = {"namespace": namespace, "serviceaccount": {"name": account, "uid": "u-1"}}
        claims = {
            "iss": "https://kubernetes.default.svc",
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "aud": ["https://kubernetes.default.svc"],
            "kubernetes.io": about,
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
        }
        return jwt.encode(claims, self.key, algorithm="ES256")

    def review(self, token: str) -> dict[str, Any]:
        """Return the status of a TokenReview."""
        self.reviews.append(token)
        try:
            claims = jwt.decode(token, self.key.public_key(), algorithms=["ES256"], options={"verify_aud": False})
        except jwt.InvalidTokenError:
            return {"authenticated": False, "error": "invalid bearer token"}
        groups = ["system:serviceaccounts", "system:authenticated"]
        user = {"username": claims["sub"], "uid": "u-1", "groups": groups}
        return {"authenticated": True, "user": user, "audiences": claims["aud"]}

    def settings(self, authority: TestAuthority) -> dict[str, Any]:
        """Return the configuration of the auth method for this cluster."""
        return {
            "kubernetes_host": f"http://127.0.0.1:{self.port}",
            "kubernetes_ca_cert": authority.ca_path.read_text(),
            "disable_local_ca_jwt": True,
        }


@contextmanager
def cluster() -> Iterator[Cluster]:
    it = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = it.review(asked["spec"]["token"])
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}
            text = json.dumps(body).encode()
            self.send_response(201 if self.path == "/apis/authentication.k8s.io/v1/tokenreviews" else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *parts: object) -> None:
            pass

    with answering(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        it.port = server.server_address[1]
        yield it

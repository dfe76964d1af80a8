"""What proves the broker to its store; every secret is named by the file that holds it."""

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, field_validator, model_validator

from broker.providers.vault.section import MountPath, Section, StoreName, namespace_of

_PRINTABLE: Final = r"^[!-~]+$"

Word = Annotated[str, Field(pattern=_PRINTABLE, max_length=2048)]


class AppRoleSettings(Section):
    """Login by AppRole."""

    role_id: Word | None = Field(default=None, description="The role id, which is no secret; or name `role_id_file`.")
    role_id_file: Path | None = Field(default=None, description="File with the role id.")
    secret_id_file: Path | None = Field(
        default=None, description="File with the secret id, mode 0600 or 0400; read again before each login."
    )
    wrapped_secret_id_file: Path | None = Field(
        default=None,
        description="Instead: file with a wrapping token that holds the secret id. It is opened once; one that was "
        "opened before, or was made for another role, is an alarm.",
    )
    role_name: StoreName | None = Field(
        default=None,
        description="Name of the role, needed with `wrapped_secret_id_file`: the wrapping token must be of its path.",
    )
    mount: MountPath = Field(default="approle", description="Mount of the auth method.")

    @model_validator(mode="after")
    def _one_role(self) -> "AppRoleSettings":
        if (self.role_id is None) == (self.role_id_file is None):
            message = "name exactly one of role_id and role_id_file"
            raise ValueError(message)
        if (self.secret_id_file is None) == (self.wrapped_secret_id_file is None):
            message = "name exactly one of secret_id_file and wrapped_secret_id_file"
            raise ValueError(message)
        if (self.wrapped_secret_id_file is None) != (self.role_name is None):
            message = "role_name and wrapped_secret_id_file belong together"
            raise ValueError(message)
        return self


class CertificateSettings(Section):
    """Login by a client certificate, over a TLS connection of its own."""

    certificate_file: Path = Field(description="PEM file with the broker's certificate for the store, and its chain.")
    key_file: Path = Field(description="PEM file with its key, mode 0600 or 0400.")
    role: StoreName | None = Field(
        default=None, description="Role of the auth method; the store tries all of them by default."
    )
    mount: MountPath = Field(default="cert", description="Mount of the auth method.")


class JwtSettings(Section):
    """Login by a JWT that somebody else keeps fresh in a file."""

    role: StoreName = Field(description="Role of the auth method.")
    token_file: Path = Field(description="File with the JWT, mode 0600 or 0400; read again before each login.")
    mount: MountPath = Field(default="jwt", description="Mount of the auth method.")


class KubernetesSettings(Section):
    """Login by the service account of the broker's pod."""

    role: StoreName = Field(description="Role of the auth method.")
    token_file: Path = Field(
        default=Path("/var/run/secrets/kubernetes.io/serviceaccount/token"),
        description="The projected service account token; read again before each login.",
    )
    mount: MountPath = Field(default="kubernetes", description="Mount of the auth method.")


class AwsSettings(Section):
    """Login by a signed question to AWS about who the broker is (IAM)."""

    role: StoreName = Field(description="Role of the auth method.")
    access_key_id_file: Path = Field(description="File with the access key id.")
    secret_access_key_file: Path = Field(description="File with the secret access key, mode 0600 or 0400.")
    session_token_file: Path | None = Field(
        default=None, description="File with the session token of temporary credentials, mode 0600 or 0400."
    )
    region: StoreName = Field(default="us-east-1", description="Region that the question is signed for.")
    server_id: Word | None = Field(
        default=None, description="What the store wants in `X-Vault-AWS-IAM-Server-ID`, if anything."
    )
    mount: MountPath = Field(default="aws", description="Mount of the auth method.")


class UserpassSettings(Section):
    """Login by name and password, for development only: a warning at each start says so."""

    username: StoreName = Field(description="Name of the user.")
    password_file: Path = Field(description="File with the password, mode 0600 or 0400.")
    mount: MountPath = Field(default="userpass", description="Mount of the auth method.")


class AuthSettings(Section):
    """What proves the broker to the store: exactly one way."""

    token_file: Path | None = Field(
        default=None,
        description="File with a token, mode 0600 or 0400; renewed by the broker, and followed when it is replaced.",
    )
    approle: AppRoleSettings | None = Field(default=None, description="Login by AppRole.")
    certificate: CertificateSettings | None = Field(default=None, description="Login by a client certificate.")
    jwt: JwtSettings | None = Field(default=None, description="Login by a JWT.")
    kubernetes: KubernetesSettings | None = Field(default=None, description="Login by a service account.")
    aws: AwsSettings | None = Field(default=None, description="Login by AWS IAM, where the store has it.")
    unsafe_userpass: UserpassSettings | None = Field(default=None, description="Login by name and password.")
    namespace: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_./-]+$",
        description="Namespace of the auth method, when it is another than that of the secrets; `/` is the root.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "AuthSettings":
        ways = sorted(set(type(self).model_fields) - {"namespace"})
        if sum(getattr(self, way) is not None for way in ways) != 1:
            message = f"name exactly one of {', '.join(ways)}"
            raise ValueError(message)
        return self

    @field_validator("namespace")
    @classmethod
    def _safe_namespace(cls, namespace: str | None) -> str | None:
        # The root is named here, because leaving the setting out means the namespace of the secrets.
        return namespace if namespace in {None, "/"} else namespace_of(str(namespace))

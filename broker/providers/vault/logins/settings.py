"""What proves the broker to its store; every secret is named by where it stands."""

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, field_validator, model_validator

from broker.providers.vault.places import CredentialSection, Place, require
from broker.providers.vault.section import MountPath, Section, StoreName, namespace_of

_PLACE: Final = "`${NAME}` of `providers.env.own_names`, or the absolute path of a file of mode 0600 or 0400"
_PRINTABLE: Final = r"^[!-~]+$"

Word = Annotated[str, Field(pattern=_PRINTABLE, max_length=2048)]


class AppRoleSettings(CredentialSection):
    """Login by AppRole."""

    role_id: Word | None = Field(default=None, description="The role id, which is no secret; or name `role_id_file`.")
    role_id_file: Path | None = Field(default=None, description="File with the role id.")
    secret_id: Place | None = Field(
        default=None, description=f"Where the secret id stands: {_PLACE}; read again before each login."
    )
    secret_id_file: Path | None = Field(default=None, description="Instead: the path of that file.")
    wrapped_secret_id: Place | None = Field(
        default=None,
        description="Instead: where a wrapping token stands that holds the secret id. It is opened once; one that was "
        "opened before, or was made for another role, is an alarm.",
    )
    wrapped_secret_id_file: Path | None = Field(default=None, description="Instead: the path of that file.")
    role_name: StoreName | None = Field(
        default=None,
        description="Name of the role, needed with a wrapped secret id: the wrapping token must be of its path.",
    )
    mount: MountPath = Field(default="approle", description="Mount of the auth method.")

    @model_validator(mode="after")
    def _one_role(self) -> "AppRoleSettings":
        if (self.role_id is None) == (self.role_id_file is None):
            message = "name exactly one of role_id and role_id_file"
            raise ValueError(message)
        wrapped = self.credential("wrapped_secret_id")
        if (self.credential("secret_id") is None) == (wrapped is None):
            message = "name exactly one of secret_id and wrapped_secret_id, by a reference or as NAME_file"
            raise ValueError(message)
        if (wrapped is None) != (self.role_name is None):
            message = "role_name and a wrapped secret id belong together"
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


class JwtSettings(CredentialSection):
    """Login by a JWT that somebody else keeps fresh in a file."""

    role: StoreName = Field(description="Role of the auth method.")
    token: Place | None = Field(
        default=None, description=f"Where the JWT stands: {_PLACE}; read again before each login."
    )
    token_file: Path | None = Field(default=None, description="Instead: the path of that file.")
    mount: MountPath = Field(default="jwt", description="Mount of the auth method.")

    @model_validator(mode="after")
    def _credentials(self) -> "JwtSettings":
        require(self, "token")
        return self


class KubernetesSettings(Section):
    """Login by the service account of the broker's pod."""

    role: StoreName = Field(description="Role of the auth method.")
    token_file: Path = Field(
        default=Path("/var/run/secrets/kubernetes.io/serviceaccount/token"),
        description="The projected service account token; read again before each login.",
    )
    mount: MountPath = Field(default="kubernetes", description="Mount of the auth method.")


class AwsSettings(CredentialSection):
    """Login by a signed question to AWS about who the broker is (IAM)."""

    role: StoreName = Field(description="Role of the auth method.")
    access_key_id: Place | None = Field(
        default=None,
        description="Where the access key id stands, which is no secret: `${NAME}`, or any file.",
    )
    access_key_id_file: Path | None = Field(default=None, description="Instead: the path of that file.")
    secret_access_key: Place | None = Field(
        default=None, description=f"Where the secret access key stands: {_PLACE}; read again before each login."
    )
    secret_access_key_file: Path | None = Field(default=None, description="Instead: the path of that file.")
    session_token: Place | None = Field(
        default=None, description="Where the session token of temporary credentials stands, as the secret access key."
    )
    session_token_file: Path | None = Field(default=None, description="Instead: the path of that file.")
    region: StoreName = Field(default="us-east-1", description="Region that the question is signed for.")
    server_id: Word | None = Field(
        default=None, description="What the store wants in `X-Vault-AWS-IAM-Server-ID`, if anything."
    )
    mount: MountPath = Field(default="aws", description="Mount of the auth method.")

    @model_validator(mode="after")
    def _credentials(self) -> "AwsSettings":
        require(self, "access_key_id", "secret_access_key")
        return self


class UserpassSettings(CredentialSection):
    """Login by name and password, for development only: a warning at each start says so."""

    username: StoreName = Field(description="Name of the user.")
    password: Place | None = Field(default=None, description=f"Where the password stands: {_PLACE}.")
    password_file: Path | None = Field(default=None, description="Instead: the path of that file.")
    mount: MountPath = Field(default="userpass", description="Mount of the auth method.")

    @model_validator(mode="after")
    def _credentials(self) -> "UserpassSettings":
        require(self, "password")
        return self


class AuthSettings(CredentialSection):
    """What proves the broker to the store: exactly one way."""

    token: Place | None = Field(
        default=None,
        description=f"Where a token stands: {_PLACE}; renewed by the broker, and followed when it is replaced.",
    )
    token_file: Path | None = Field(default=None, description="Instead: the path of that file.")
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

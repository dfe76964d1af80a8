"""What the sections of the store's settings have in common."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

MOUNT: Final = r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$"
# A name that the store puts into a path: no slash, no dot at its beginning.
NAME: Final = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"

Seconds = Annotated[float, Field(gt=0, le=600)]
MountPath = Annotated[str, Field(pattern=MOUNT)]
StoreName = Annotated[str, Field(pattern=NAME, max_length=256)]


class Section(BaseModel):
    """A section: unknown keys are refused, and no error shows what was written."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def namespace_of(text: str) -> str:
    """Return a namespace in its one form, without slashes at its ends.

    Raises:
        ValueError: A segment is empty, made of dots alone, or `root`.

    """
    namespace = text.strip("/")
    segments = namespace.split("/")
    if any(not segment.strip(".") for segment in segments):
        message = "a namespace is team or team/child; no segment is empty, and none is made of dots alone"
        raise ValueError(message)
    if "root" in segments:
        message = "the root namespace has no name: leave the setting out"
        raise ValueError(message)
    return namespace

"""The real servers of the integration tests."""

from tests.openbao import durable_openbao, openbao, own_openbao

__all__ = ["durable_openbao", "openbao", "own_openbao"]

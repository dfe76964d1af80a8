"""The real servers of the integration tests, and what a service manager does for a broker."""

from tests.openbao import durable_openbao, openbao, own_openbao
from tests.service_manager import manager_of_place, surroundings

__all__ = ["durable_openbao", "manager_of_place", "openbao", "own_openbao", "surroundings"]

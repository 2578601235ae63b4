"""Layer 1: the interface of a provider."""

from __future__ import annotations

import inspect
import re

import pytest

from src.memory.protocols import MEMORY_PROVIDER_VERSION, MemoryProvider
from src.testing.contracts.base import ProviderContract

_METHODS = ("store", "retrieve", "get_by_id", "delete", "search")


class ProtocolDefinitionContract(ProviderContract):
    """Layer 1: the provider has the methods of the protocol, and they can be called as it says."""

    def test_satisfies_the_protocol(self, provider: MemoryProvider) -> None:
        assert isinstance(provider, MemoryProvider)

    def test_protocol_has_a_semantic_version(self) -> None:
        assert re.fullmatch(r"\d+\.\d+\.\d+", MEMORY_PROVIDER_VERSION)

    @pytest.mark.parametrize("name", _METHODS)
    def test_method_is_asynchronous(self, provider: MemoryProvider, name: str) -> None:
        assert inspect.iscoroutinefunction(getattr(provider, name))

    @pytest.mark.parametrize("name", _METHODS)
    def test_method_takes_the_parameters_of_the_protocol(self, provider: MemoryProvider, name: str) -> None:
        promised = list(inspect.signature(getattr(MemoryProvider, name)).parameters.values())[1:]
        actual = inspect.signature(getattr(provider, name))
        arguments = {parameter.name: object() for parameter in promised}
        assert actual.bind(**arguments).arguments == arguments
        assert actual.bind(*arguments.values()).arguments == arguments
        assert [actual.parameters[p.name].default for p in promised] == [p.default for p in promised]

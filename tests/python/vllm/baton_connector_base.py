"""The base class of vLLM's KV connectors as recorded (interface.json): what the adapter subclasses where there is no vLLM."""

import abc
import enum
import json
import pathlib

INTERFACE = json.loads((pathlib.Path(__file__).parent / "interface.json").read_text())
KVConnectorRole = enum.Enum("KVConnectorRole", INTERFACE["roles"])


class KVConnectorMetadata(abc.ABC):  # noqa: B024
    pass


def _base():
    def init(self, vllm_config, role, kv_cache_config):
        self._connector_metadata = None

    def method(name, abstract):
        def f(self, *args, **kwargs):
            return None

        f.__name__ = name
        return abc.abstractmethod(f) if abstract else f

    body = {name: method(name, m["abstract"]) for name, m in INTERFACE["methods"].items()}
    body.update(__init__=init, bind_connector_metadata=lambda self, m: setattr(self, "_connector_metadata", m),
                clear_connector_metadata=lambda self: setattr(self, "_connector_metadata", None), _get_connector_metadata=lambda self: self._connector_metadata,
                requires_piecewise_for_cudagraph=classmethod(lambda cls, extra: False))
    return abc.ABCMeta(INTERFACE["class"], (abc.ABC,), body)


KVConnectorBase_V1 = _base()

"""Writes docs/asyncapi.yaml: the messages, sockets and operations of the publisher, AsyncAPI 3.0.

AsyncAPI has no binding for ZeroMQ. What a client must know of the sockets stands in `x-zeromq`, in
the place of a binding, where tools that do not know it pass over it.
"""

from __future__ import annotations

import inspect
from typing import Any, get_args

import msgspec
import yaml

from .. import __version__
from ..stream.events import KINDS, TOPIC_ROOT
from ..stream.protocol import HEARTBEAT_ROOT, Answer, Question
from .docs_events import MESSAGES, REPLAY, describe, message_examples

ASYNCAPI = "3.0.0"
MSGPACK = "application/msgpack"
_HEAD = (
    "# Written by `make docs` from stream/events.py and stream/protocol.py: do not edit it here.\n"
)


class _Plain(yaml.SafeDumper):
    """Repeats what stands in several places, where YAML would refer to the first."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always."""
        return True


def write_asyncapi() -> str:
    """docs/asyncapi.yaml."""
    text: str = yaml.dump(asyncapi(), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100)
    return _HEAD + text


def asyncapi() -> dict[str, Any]:
    """The document, as the publisher's: it sends events and answers replay requests."""
    return {
        "asyncapi": ASYNCAPI,
        "id": "urn:facestream:v1",
        "info": {
            "title": "facestream events",
            "version": __version__,
            "description": "Who was seen by which camera, as events over ZeroMQ. The words are in "
            "docs/events.md: what an event is, how gaps are noticed and how they are filled.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": MSGPACK,
        "servers": _servers(),
        "channels": _channels(),
        "operations": _operations(),
        "components": {
            "messages": {name: _message(name) for name in MESSAGES},
            "schemas": _schemas(),
            "securitySchemes": {
                "curve": {
                    "type": "asymmetricEncryption",
                    "description": "CurveZMQ (ZMTP 3.1): the subscriber has a key pair of its own "
                    "that the publisher allows, and knows the publisher's public key. See "
                    "docs/access.md.",
                }
            },
        },
    }


def _servers() -> dict[str, Any]:
    """Both sockets of a publisher, on loopback and with keys."""
    events = {
        "description": "The publisher's socket for events and heartbeats.",
        "bindings": {"x-zeromq": {"socket": "XPUB", "peer": "SUB", "frames": ["topic", "payload"]}},
    }
    replay = {
        "description": "The publisher's socket for what a subscriber missed: by default the next "
        "port, or the path or name with -replay added.",
        "bindings": {"x-zeromq": {"socket": "ROUTER", "peer": "DEALER", "frames": ["payload"]}},
    }
    servers: dict[str, Any] = {}
    keys = {"security": [_ref("components/securitySchemes/curve")]}
    for suffix, security in (("", {}), ("-with-keys", keys)):
        for name, port, server in (("events", "5555", events), ("replay", "5556", replay)):
            host = {"default": "127.0.0.1", "description": "Loopback, where there are no keys."}
            if suffix:
                host = {"description": "Name or address of the publisher's machine."}
            servers[name + suffix] = {
                "host": "{host}:{port}",
                "protocol": "zmtp",
                "protocolVersion": "3.1",
                **server,
                "variables": {"host": host, "port": {"default": port}},
                **security,
            }
    return servers


def _channels() -> dict[str, Any]:
    """A channel per kind of event, one for heartbeats, one for the replay socket."""
    camera = {"description": "Name of the camera: letters, digits, dot, dash and underscore."}
    channels: dict[str, Any] = {}
    for kind, struct in KINDS.items():
        own = kind == "system"
        channels[kind] = {
            "address": f"{TOPIC_ROOT}/{kind}/" + ("-" if own else "{camera}"),
            "description": inspect.getdoc(struct),
            "servers": _on("events"),
            **({} if own else {"parameters": {"camera": camera}}),
            "messages": {kind: _ref(f"components/messages/{kind}")},
        }
    channels["heartbeat"] = {
        "address": f"{HEARTBEAT_ROOT}/{{kind}}/{{camera}}",
        "description": "How far each topic has come; the camera of system is -.",
        "servers": _on("events"),
        "parameters": {"kind": {"enum": list(KINDS)}, "camera": camera},
        "messages": {"heartbeat": _ref("components/messages/heartbeat")},
    }
    channels["replay"] = {
        "address": None,
        "description": "Questions and answers on one DEALER/ROUTER connection.",
        "servers": _on("replay"),
        "messages": {name: _ref(f"components/messages/{name}") for name in REPLAY},
    }
    return channels


def _operations() -> dict[str, Any]:
    """What the publisher does: send every kind and the heartbeats, answer on the replay socket."""
    operations: dict[str, Any] = {
        f"send.{name}": {
            "action": "send",
            "channel": _ref(f"channels/{name}"),
            "messages": [_ref(f"channels/{name}/messages/{name}")],
        }
        for name in (*KINDS, "heartbeat")
    }
    operations["answer.replay"] = {
        "action": "receive",
        "summary": "A subscriber asks for what it missed and hands out credit.",
        "channel": _ref("channels/replay"),
        "messages": _replay(Question),
        "reply": {"channel": _ref("channels/replay"), "messages": _replay(Answer)},
    }
    return operations


def _message(name: str) -> dict[str, Any]:
    """One message; the publisher's `publish.format` may say JSON for what is no replay."""
    struct = MESSAGES[name]
    example = msgspec.to_builtins(message_examples()[name])
    forms = [MSGPACK] if name in REPLAY else [MSGPACK, "application/json"]
    return {
        "name": name,
        "title": struct.__name__,
        "summary": (inspect.getdoc(struct) or "").partition("\n")[0],
        "contentType": MSGPACK,
        "payload": _ref(f"components/schemas/{struct.__name__}"),
        "x-content-types": forms,
        "examples": [{"payload": example}],
    }


def _schemas() -> dict[str, Any]:
    """The schemas of all messages in JSON Schema draft 7, which AsyncAPI's own schemas follow."""
    _, schemas = msgspec.json.schema_components(
        tuple(MESSAGES.values()), ref_template="#/components/schemas/{name}"
    )
    describe(schemas)
    for schema in schemas.values():
        for described in schema["properties"].values():
            if "prefixItems" in described:
                # Draft 7 has the schemas of a tuple in `items`, and what follows in another key.
                described["additionalItems"] = described["items"]
                described["items"] = described.pop("prefixItems")
    return schemas


def _replay(union: Any) -> list[dict[str, str]]:
    return [
        _ref(f"channels/replay/messages/replay.{struct.__struct_config__.tag}")
        for struct in get_args(union)
    ]


def _on(socket: str) -> list[dict[str, str]]:
    """The servers that offer a socket."""
    return [_ref(f"servers/{socket}"), _ref(f"servers/{socket}-with-keys")]


def _ref(path: str) -> dict[str, str]:
    return {"$ref": f"#/{path}"}

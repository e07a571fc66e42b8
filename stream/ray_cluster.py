"""What joining a Ray cluster takes, checked in words before Ray itself waits for minutes."""

from __future__ import annotations

import importlib.util
import socket

from .. import ConfigError


def require_ray(option: str) -> None:
    """Raise ConfigError when it is not installed; option: what asks for it."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            f"{option} needs Ray, which is not installed: pip install 'facestream[cluster]' here "
            "and on every node"
        )


def require_listener(option: str, address: str, patience: float) -> None:
    """Raise ConfigError unless something listens there within `patience` seconds."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ConfigError(
            f"{option} must be HOST:PORT of a running cluster's head, got {address!r}: take what "
            "`ray start --head` prints"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), patience).close()
    except (OSError, OverflowError) as error:
        raise unreachable(option, address, str(error)) from None


def unreachable(option: str, address: str, why: str) -> ConfigError:
    """No cluster can be joined."""
    return ConfigError(
        f"{option} {address}: no Ray cluster can be joined there ({why}): check the address, and "
        f"that this machine is one of its nodes (ray start --address={address})"
    )

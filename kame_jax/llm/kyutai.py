"""Kyutai's moshi-server as speech-to-text and text-to-speech both reach it: its address, its key, its messages.

Protocol: kyutai-labs/moshi `rust/moshi-server`: MessagePack maps with a "type" over a WebSocket. Extra `kyutai`.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from kame_jax.errors import InputError

KEY_ENV = "KYUTAI_API_KEY"
PUBLIC_KEY = "public_token"
"""What the server's own samples accept; sent where no key is set."""


def packages() -> Any:
    """The module `msgpack`, if `websockets` is installed as well.

    Raises:
        InputError: they are not installed.
    """
    try:
        import msgpack
        import websockets  # noqa: F401
    except ImportError:
        raise InputError(
            "Kyutai's server needs websockets and msgpack: pip install 'kame_jax[kyutai]'"
        ) from None
    return msgpack


def address(url: str, option: str) -> str:
    """`ws://host:port` or `wss://host:port` of a server given with ws, wss, http or https.

    Raises:
        InputError: another kind of address; `option` says where it was given.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.netloc:
        raise InputError(f"{option} {url}: expected ws://host:port")
    return f"{'wss' if parts.scheme in ('wss', 'https') else 'ws'}://{parts.netloc}"


def headers(key_env: str = KEY_ENV) -> dict[str, str]:
    """Authorisation headers of a request."""
    return {"kyutai-api-key": os.environ.get(key_env, "").strip() or PUBLIC_KEY}

"""Addresses of servers in settings: what is wrong with one, reported the same way everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit


def address_conflicts(
    field: str, url: str | None, schemes: Sequence[str] = ("http", "https")
) -> Iterator[tuple[str, str]]:
    """Yield (field, what is wrong) for a server's address that cannot be used; None is always right."""
    if url is None:
        return
    parts = urlsplit(url)
    if parts.scheme not in schemes or not parts.netloc:
        yield field, f"expected {' or '.join(f'{scheme}://...' for scheme in schemes)}"
    elif parts.username or parts.password or parts.query:
        yield field, "must not carry a user, a password or a query: keys belong in the environment"

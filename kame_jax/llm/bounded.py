"""HTTP with limits on model servers: bodies of bounded size, and no redirect to another host.

Imported where the `openai` package is known to be installed; its HTTP library (httpx in 2.x, httpx2 in 3.x) is not
named here.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from openai import DefaultAsyncHttpxClient

from kame_jax.llm.errors import LLMError, one_line

REDIRECTS = (301, 302, 307, 308)
MOST_REDIRECTS = 3
CHUNK_BYTES = 1 << 16
GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


class BoundedClient(DefaultAsyncHttpxClient):  # type: ignore[misc]  # the package is optional
    """The HTTP client of the `openai` package.

    A redirect is followed with the same request, but only to the same host; bodies that are not streamed, and those of
    errors, are read here.

    Args:
        timeout: seconds.
        max_bytes: of a body, decompressed.
    """

    def __init__(self, timeout: float, max_bytes: int) -> None:
        super().__init__(timeout=timeout, follow_redirects=False)
        self._max_bytes = max_bytes

    async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """See httpx. A body that is streamed is read with `read_body`.

        Raises:
            LLMError: a redirect to another host, or a body that is too long.
        """
        options["follow_redirects"] = False
        request.headers["accept-encoding"] = "identity"
        for _ in range(MOST_REDIRECTS + 1):
            response = await super().send(request, stream=True, **options)
            if response.status_code not in REDIRECTS or "location" not in response.headers:
                break
            await response.aclose()
            request = await self._redirected(request, response.headers["location"])
        else:
            raise LLMError("refused", f"more than {MOST_REDIRECTS} redirects")
        if stream and response.status_code < 300:
            return response
        try:
            content = b"".join([part async for part in read_body(response, self._max_bytes)])
        finally:
            await response.aclose()
        about_the_body = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.items() if name not in about_the_body]
        return type(response)(
            response.status_code, headers=headers, content=content, request=response.request
        )

    async def _redirected(self, request: Any, location: str) -> Any:
        old, new = request.url, request.url.join(location)
        upgraded = new.host == old.host and (old.scheme, new.scheme) == ("http", "https")
        if (new.scheme, new.host, new.port) != (old.scheme, old.host, old.port) and not upgraded:
            raise LLMError(
                "refused",
                f"the server redirects the request to {one_line(new.copy_with(query=None))}, another server; "
                "if that is right, set base_url to it",
            )
        headers = [(name, value) for name, value in request.headers.items() if name != "host"]
        return self.build_request(
            request.method, new, content=await request.aread(), headers=headers, extensions=request.extensions
        )


async def read_body(response: Any, max_bytes: int) -> AsyncIterator[bytes]:
    """A body piece by piece as it comes, decompressed; other work can run between two pieces.

    Raises:
        LLMError: it is longer than `max_bytes`, or compressed with anything other than gzip or deflate.
    """
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise LLMError("malformed", f"the body is compressed ({one_line(coding)}), which was not asked for")
    inflate = None if coding in ("", "identity") else zlib.decompressobj(GZIP_OR_ZLIB)
    read = 0
    async for part in response.aiter_raw():
        for piece in _inflated(inflate, part):
            read += len(piece)
            if read > max_bytes:
                raise LLMError("oversized", f"a reply of more than {max_bytes:,} bytes")
            yield piece
            await asyncio.sleep(0)


def _inflated(inflate: Any, part: bytes) -> Iterator[bytes]:
    if inflate is None:
        yield part
        return
    while part:
        try:
            yield inflate.decompress(part, CHUNK_BYTES)
        except zlib.error as error:
            raise LLMError("malformed", f"the compressed body is damaged: {error}") from None
        part = inflate.unconsumed_tail

"""Who may ask: a bearer token from the environment, where there is one."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable

from pydantic import SecretStr

OPEN_PATHS = ("/ping",)  # what a load balancer asks, and what says nothing
LONGEST = 4096
# A browser that is led to a report asks its person; the name they type does not matter, the password is the token.
CHALLENGE = 'Bearer, Basic realm="Sundial", charset="UTF-8"'


class Guard:
    """Checks the token that callers send.

    Parameters
    ----------
    token : SecretStr
        Empty lets everybody in.
    """

    def __init__(self, token: SecretStr) -> None:
        self._token = token.get_secret_value().encode()

    def admits(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Say whether a request may be answered.

        Parameters
        ----------
        path : str
            What is asked for.
        headers : iterable of (name, value)
            Names in lower case.

        Returns
        -------
        bool
        """
        if not self._token or path in OPEN_PATHS:
            return True
        given = [value for name, value in headers if name == b"authorization"]
        # compared in constant time, whatever is there: how long it takes says nothing of the token
        return hmac.compare_digest(_read_token(given[0]) if len(given) == 1 else b"", self._token)


def _read_token(value: bytes) -> bytes:
    """Take the token out of ``Bearer <token>``, or the password out of ``Basic <name:password in base64>``."""
    scheme, _, content = value[:LONGEST].partition(b" ")
    content = content.strip()
    if scheme.lower() == b"bearer":
        return content
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(content, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""

"""One-time codes: a name typed into a form proves nothing, a code from the approver's own device does.

Codes are those of RFC 6238 (six digits, 30 s, SHA-1, which authenticator apps take for granted). A code counts once:
the number of its 30 s is written down before the decision, and no number up to it is ever taken again.
"""

from __future__ import annotations

import hmac
import time

from sundial.errors import AnswerRefusedError
from sundial.formats import read_json, write_json_atomically
from sundial.release.locks import hold_lock
from sundial.settings import Settings

PERIOD = 30  # s, the default of RFC 6238
# One period either way, for clocks that differ and for the time that it takes to answer (RFC 6238, section 5.2); a
# flow that resumes takes some seconds more until it reads the answer.
WINDOW = 2


def needs_code(name: str, settings: Settings) -> bool:
    """Tell whether an approver has a secret, and so must give a code."""
    return name in settings.approver_secrets


def use_code(name: str, code: str, *, answer: str, settings: Settings, at: float | None = None) -> None:
    """Check an approver's one-time code, and use it up.

    Parameters
    ----------
    name : str
        Of an approver who has a secret.
    code : str
        Six digits.
    answer : str
        What it is given for; checked again for the same answer, a code that was used for it still counts, so that a
        crash after its use loses no decision.
    settings : Settings
        With the secrets; used codes are recorded under its artifacts.
    at : float, optional
        Seconds since 1970; the present by default.

    Raises
    ------
    AnswerRefusedError
        When there is no code, it is wrong, or it was used before.
    """
    import pyotp

    digits = "".join(code.split())
    if not digits:
        raise AnswerRefusedError(
            f"{name} has a secret in the settings, and no one-time code was given",
            hint="give the six digits that your authenticator shows now",
        )
    now = int((time.time() if at is None else at) // PERIOD)
    codes = pyotp.HOTP(settings.approver_secrets[name].get_secret_value())
    numbers = [number for number in range(now - WINDOW, now + 2) if hmac.compare_digest(codes.at(number), digits)]
    path = settings.artifacts / "codes.json"
    with hold_lock(settings.artifacts / ".codes.lock"):
        used = read_json(path) if path.exists() else {}
        last = used.get(name, {"number": -1, "answer": ""})
        if not numbers:
            if last["answer"] == answer:
                return
            raise AnswerRefusedError(
                f"the one-time code is not one of {name}'s of the last minute",
                hint="give the six digits that your authenticator shows now, and check its clock",
            )
        if max(numbers) <= last["number"]:
            if last["answer"] == answer:
                return
            raise AnswerRefusedError(
                f"this one-time code of {name}, or a later one, was used before",
                hint="wait for the next code, which comes within 30 seconds",
            )
        write_json_atomically(path, used | {name: {"number": max(numbers), "answer": answer}}, durable=True)

"""Detectors of what is private in a text: e-mail addresses, IBANs, payment cards, phone numbers, and secret keys. Pure.

Each is a pattern, and where the kind of number has one a check digit, so that other numbers stay as they are. They find
what has the usual form, not everything a person would call private: names and addresses take a model, and its errors.
Every pattern is bounded and has one way to match, so that a text of any kind takes time in proportion to its length.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

DetectorName = Literal["key", "email", "iban", "card", "phone"]


@dataclass(frozen=True, slots=True)
class Detector:
    """What one kind looks like. `pattern` finds candidates, `holds` decides."""

    name: DetectorName
    pattern: re.Pattern[str]
    holds: Callable[[str], bool]


def redact(text: str) -> str:
    """The text with each finding replaced by its kind in brackets, as `[email]`."""
    for one in DETECTORS:
        text = one.pattern.sub(lambda match, one=one: f"[{one.name}]" if one.holds(match[0]) else match[0], text)  # type: ignore[misc]
    return text


def redact_all(value: Any) -> Any:
    """A JSON value with every text in it redacted, names of members included."""
    match value:
        case str():
            return redact(value)
        case dict():
            return {redact(name): redact_all(member) for name, member in value.items()}
        case list():
            return [redact_all(item) for item in value]
        case _:
            return value


def found_in(value: Any, wanted: frozenset[DetectorName]) -> Counter[DetectorName]:
    """How often each of the wanted kinds is found in the texts of a JSON value.

    What one kind has taken another does not find again: a card number is no phone number, whichever are wanted.
    """
    found: Counter[DetectorName] = Counter()
    for text in _texts(value):
        for one in DETECTORS:
            count = 0

            def taken(match: re.Match[str], one: Detector = one) -> str:
                nonlocal count
                if not one.holds(match[0]):
                    return match[0]
                count += 1
                return " "

            text = one.pattern.sub(taken, text)
            if count and one.name in wanted:
                found[one.name] += count
    return found


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for name, member in value.items():
                yield name
                yield from _texts(member)
        case list():
            for item in value:
                yield from _texts(item)


def _luhn(number: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1, annex B)."""
    digits = [int(one) for one in number if one.isdigit()]
    doubled = [sum(divmod(2 * one, 10)) for one in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 and any(digits)


def _mod_97(number: str) -> bool:
    """The check digits of an IBAN (ISO 13616-1)."""
    plain = number.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(one, 36)) for one in plain[4:] + plain[:4])) % 97 == 1


def _is_phone(number: str) -> bool:
    """7 to 15 digits (ITU-T E.164)."""
    return 7 <= sum(one.isdigit() for one in number) <= 15


def _always(_: str) -> bool:
    return True


_KEY = re.compile(
    r"""(?<![A-Za-z0-9])(?:
      sk-[A-Za-z0-9_-]{16,256}                                   # OpenAI, Anthropic, Skeldir, and who copied the form
    | (?:AKIA|ASIA)[0-9A-Z]{16}                                  # AWS
    | AIza[0-9A-Za-z_-]{35}                                      # Google
    | gh[pousr]_[A-Za-z0-9]{20,255} | github_pat_[A-Za-z0-9_]{20,255} | glpat-[A-Za-z0-9_-]{20,64}
    | xox[abprs]-[A-Za-z0-9-]{10,250}                            # Slack
    | (?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,255}             # Stripe
    | hf_[A-Za-z0-9]{30,64} | npm_[A-Za-z0-9]{36}
    | eyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]{8,1024}    # JWT
    )(?![A-Za-z0-9])
    | -----BEGIN\ [A-Z ]{0,30}PRIVATE\ KEY-----[A-Za-z0-9+/=\s\\]{0,8192}(?:-----END\ [A-Z ]{0,30}PRIVATE\ KEY-----)?
    """,
    re.VERBOSE,
)
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_CARD = re.compile(
    r"""(?<![\w.])(?:
      \d{13,19} | \d{4}([ -])\d{4}\1\d{4}\1\d{4} | \d{4}([ -])\d{6}\2\d{5}
    )(?!\w)
    """,
    re.VERBOSE,
)
_PHONE = re.compile(
    r"""(?<![\w.+-])(?:
      (?:\+|00)[1-9](?:[ ./-]{0,2}\(?\d\)?){6,14}                # international
    | \(\d{2,5}\)[ ./-]?\d{2,4}(?:[ ./-]?\d{2,4}){1,3}           # (020) 7946 0958
    | 0\d{1,4}[ /-]\d{2,4}(?:[ /-]?\d{2,4}){1,3}                 # 020 7946 0958
    | [2-9]\d{2}[ .-]\d{3}[ .-]\d{4}                             # 212-555-0123
    )(?![\w])
    """,
    re.VERBOSE,
)

# In this order: what looks most like itself comes first.
DETECTORS = (
    Detector("key", _KEY, _always),
    Detector("email", _EMAIL, _always),
    Detector("iban", _IBAN, _mod_97),
    Detector("card", _CARD, _luhn),
    Detector("phone", _PHONE, _is_phone),
)
assert tuple(one.name for one in DETECTORS) == get_args(DetectorName)

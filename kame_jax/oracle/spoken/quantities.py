"""Numbers with what belongs to them: dates, times, ordinals, decades, years, scales; their units are in `measures`."""

from __future__ import annotations

from kame_jax.oracle.numbers import MONTHS as MONTH_NAMES
from kame_jax.oracle.numbers import cardinal, clock, digits, fraction, is_date, ordinal, plural, spell, year
from kame_jax.oracle.spoken import amounts
from kame_jax.oracle.spoken.amounts import Amount, decimal_comma, value_digits
from kame_jax.oracle.spoken.cursor import Cursor
from kame_jax.oracle.spoken.fold import PLUS
from kame_jax.oracle.spoken.measures import measured
from kame_jax.oracle.spoken.units import (
    CALLS,
    CURRENCIES,
    DECADES,
    ERAS,
    MONTHS,
    RATED,
    SCALE_WORDS,
    SCALES,
    UNITS,
    VERSIONED,
    YEARS,
)

_HALVES = {"am": "AM", "pm": "PM", "a.m.": "AM", "p.m.": "PM", "a.m": "AM", "p.m": "PM"}


def read_number(cursor: Cursor, first: int = 0) -> list[str]:
    """A number, and what belongs to it; `first` tokens before it have been read already."""
    token = cursor.peek(first)
    if len(token.text) > amounts.MAX_DIGITS:
        cursor.lexer.refuse(token.text, "number")
        cursor.done(first + 1, "word")
        return []
    amount, end = _amount(cursor, first)
    return read_amount(cursor, amount, first, end)


def read_amount(cursor: Cursor, amount: Amount, first: int = 0, end: int = 1) -> list[str]:
    """An amount that was read from the tokens `first` to `end`, with what follows it."""
    words, end, left = _with_suffix(cursor, amount, first, end)
    last, follows = cursor.peek(end - 1), cursor.peek(end)
    if last.kind == "initials" and (follows.kind in ("end", "line") or follows.text[:1].isupper()):
        words = [*words, "."]
    cursor.changes["number"] += 1
    unit = left == "unit"
    was_year = left == "year"
    cursor.done(end, "number" if left in ("unit", "year") else left, amount.value, unit)
    cursor.year = was_year
    return words


def _joined(cursor: Cursor, first: int, signs: tuple[str, ...]) -> list[str]:
    """The numbers from `first` on that one of these signs joins without spaces."""
    parts = [cursor.peek(first).text]
    k = first + 1
    sign = cursor.peek(k).text
    if sign not in signs:
        return parts
    while len(parts) < 8:
        joint, number = cursor.peek(k), cursor.peek(k + 1)
        if joint.text != sign or not joint.tight or number.kind != "number" or not number.tight:
            break
        if len(number.text) > amounts.MAX_DIGITS:
            break
        parts.append(number.text)
        k += 2
    return parts


def _amount(cursor: Cursor, first: int) -> tuple[Amount, int]:
    """The digits themselves, with all that joins them: the amount, and the index after it."""
    text = cursor.peek(first).text
    arithmetic = cursor.math or cursor.equals
    parts = _joined(cursor, first, (":",))
    if len(parts) > 1:
        end = first + 2 * len(parts) - 1
        half, end = _half_of_day(cursor, end)
        return amounts.times(parts, half), end
    parts = _joined(cursor, first, ("-", "–"))
    if (
        len(parts) == 2
        and cursor.peek(first + 3).text == "/"
        and not arithmetic
        and not cursor.is_operator(first + 5)
    ):
        below = cursor.peek(first + 4).text
        if amounts.is_fraction(parts[1], below) and len(parts[0]) < 4 and parts[0].isdigit():
            return Amount(_mixed(parts[0], int(parts[1]), int(below)), int(parts[0]) + 0.5), first + 5
    if len(parts) > 1:
        end = first + 2 * len(parts) - 1
        called = bool(CALLS & set(cursor.said))
        if not arithmetic and not cursor.is_operator(end):
            whole = amounts.hyphens(parts, called)
            if whole is not None:
                if cursor.peek(end).text == "T" and cursor.peek(end + 1).kind == "number":
                    return Amount(whole.words + ","), end + 1
                return whole, end
    parts = _joined(cursor, first, ("/",))
    if len(parts) > 1:
        end = first + 2 * len(parts) - 1
        follows = cursor.peek(end)
        divides = arithmetic or (cursor.is_operator(end) and follows.text != "/")
        dated = not divides and cursor.said and cursor.said[-1] in ("on", "since", "until", "dated")
        if dated and len(parts) == 2 and follows.text != "of" and max(map(len, parts)) < 3:
            month, day = map(int, parts)
            if is_date(month, day):
                return Amount(f"{MONTH_NAMES[month - 1]} {ordinal(day)}"), end
        if follows.tight and follows.text.lower() in ("rd", "rds", "th", "ths", "st"):
            end += 1
        if (
            len(parts) == 2
            and not divides
            and (follows.text in ("star", "stars") or RATED & set(cursor.said))
        ):
            return Amount(" out of ".join(amounts.number(part).words for part in parts)), end
        return amounts.slashes(parts, divides), end
    if cursor.peek(first + 1).text in ("-", "/", ":") and cursor.peek(first + 1).tight:
        return amounts.number(text), first + 1
    return spaced(cursor, first) or _scientific(cursor, first) or (amounts.number(text), first + 1)


def spaced(cursor: Cursor, first: int) -> tuple[Amount, int] | None:
    """Digits that continue after a space: "100 000", "2 1/2", "555 123 4567"."""
    text, follows = cursor.peek(first).text, cursor.peek(first + 1)
    plain = value_digits(text)
    if plain is None:
        return None
    if follows.kind == "fraction" and "." not in plain:
        part, whole = map(int, follows.text.strip(PLUS).split("⁄"))
        return Amount(_mixed(plain, part, whole), int(plain) + part / max(whole, 1)), first + 2
    if follows.kind != "number" or follows.tight or not text.isdigit() or len(text) > 3:
        return None
    slash, last = cursor.peek(first + 2), cursor.peek(first + 3)
    if slash.text == "/" and slash.tight and last.kind == "number" and last.tight:
        short = follows.text.isdigit() and last.text.isdigit() and len(follows.text + last.text) < 8
        above, below = (int(follows.text), int(last.text)) if short else (0, 0)
        if 0 < above < below and fraction(above, below) and cursor.peek(first + 4).text != "/":
            return Amount(_mixed(text, above, below), int(text) + above / below), first + 4
        return None
    groups, k = [text], first + 1
    while len(groups) < 8:
        group = cursor.peek(k)
        integer = group.text.replace(",", ".").partition(".")[0]
        if group.kind != "number" or group.tight or len(integer) not in (3, 4) or len(group.text) > 20:
            break
        groups.append(group.text)
        k += 1
        if len(integer) == 4 or integer != group.text:
            break
    sizes = [len(group) for group in groups]
    if sizes == [3, 3, 4]:
        return Amount(digits("".join(groups))), k
    if len(groups) > 1 and sizes[-1] == 4 and groups[-1].isdigit():
        groups, k = groups[:-1], k - 1
    if len(groups) < 2 or text.startswith("0"):
        return None
    return amounts.number("".join(groups).replace(",", ".")), k


def _mixed(whole: str, above: int, below: int) -> str:
    """ "two and a half"."""
    part = fraction(above, below) or f"{cardinal(above)} over {cardinal(below)}"
    return f"{spell(whole)} and {'a ' + part[4:] if part.startswith('one ') and below < 5 else part}"


def _scientific(cursor: Cursor, first: int) -> tuple[Amount, int] | None:
    """ "1.5e-10"."""
    plain, letter = value_digits(cursor.peek(first).text), cursor.peek(first + 1)
    if plain is None or not letter.tight or letter.text not in ("e", "E"):
        return None
    k, minus = first + 2, ""
    if cursor.peek(k).text in ("-", "+") and cursor.peek(k).tight:
        minus, k = ("minus " if cursor.peek(k).text == "-" else ""), k + 1
    power = cursor.peek(k)
    if power.kind != "number" or not power.tight or not power.text.isdigit() or len(power.text) > 4:
        return None
    return Amount(f"{spell(plain)} times ten to the power of {minus}{cardinal(int(power.text))}"), k + 1


def _half_of_day(cursor: Cursor, k: int) -> tuple[str, int]:
    """ "AM" or "PM" if it stands at `k`, and the index behind."""
    token = cursor.peek(k)
    half = _HALVES.get(token.text.lower(), "")
    return half, k + bool(half)


def _with_suffix(cursor: Cursor, amount: Amount, first: int, end: int) -> tuple[list[str], int, str]:
    """The words of an amount with what follows it, the index behind, and what it is to the next operator."""
    follows = cursor.peek(end)
    plain, words = amount.digits, [amount.words]
    if cursor.peek(first).tight and cursor.last == "word" and cursor.left in ("word", "name") and plain:
        # Of a name, as in B2B; or the base of a logarithm.
        return (["base", *words], end, "word") if cursor.name == "log" else (words, end, "number")
    comma = None if plain else decimal_comma(cursor.peek(first).text) if end == first + 1 else None
    if (
        follows.text in ('"', "″")
        and follows.tight
        and not plain
        and '"' not in cursor.open
        and amount.value is not None
    ):
        return [*words, *(["of", "an", "inch"] if amount.value < 1 else ["inches"])], end + 1, "unit"
    if not plain and comma is None:
        return measured(cursor, words, end, False)
    if follows.tight and follows.kind == "word":
        said = _glued(cursor, plain, first, end)
        if said is not None:
            return said
    if plain.isdigit() and follows.text == "'" and follows.tight:
        after = cursor.peek(end + 1)
        if after.text == "s" and after.tight and len(plain) in (2, 4):
            return [_decade(plain)], end + 2, "word"
        if after.kind == "number" and after.tight and len(after.text) <= 2:
            close = cursor.peek(end + 2).text in ('"', "''", "″")
            inches = f"{spell(after.text)} inch{'' if after.text == '1' else 'es'}"
            return [words[0], "foot" if plain == "1" else "feet", inches], end + 2 + close, "unit"
    if follows.text == '"' and follows.tight and '"' not in cursor.open:
        thing = cursor.peek(end + 1)
        kind = (
            thing.kind == "word"
            and not thing.tight
            and thing.text not in ("of", "by", "x", "long", "wide", "tall", "and")
        )
        return [*words, "inch" if plain == "1" or kind else "inches"], end + 1, "unit"
    if follows.text in ("′", "″") and follows.tight:
        arc = cursor.said and cursor.said[-1] in ("degree", "degrees", "minute", "minutes")
        names = ("minute", "minutes", "second", "seconds") if arc else ("foot", "feet", "inch", "inches")
        return [*words, names[2 * (follows.text == "″") + (plain != "1")]], end + 1, "unit"
    if "." in plain and cursor.said and cursor.said[-1] in VERSIONED:
        return [" point ".join(map(spell, plain.split(".")))], end, "number"
    if plain.isdigit() and follows.text.lower() in _HALVES and 0 < int(plain[:3]) < 13 and len(plain) < 3:
        return [clock(int(plain), half=_HALVES[follows.text.lower()])], end + 1, "word"
    if plain.isdigit() and len(plain) < 3 and is_date(1, int(plain)) and _is_day(cursor, end):
        article = ["the"] if not cursor.said or cursor.said[-1] != "the" else []
        return [*article, ordinal(int(plain)), "of"], end, "word"
    if plain.isdigit() and _is_year(cursor, plain, end):
        return [year(int(plain))], end, "year"
    if plain == "911" and CALLS & set(cursor.said):
        return [digits(plain)], end, "number"
    if comma is not None:
        counted, behind, left = measured(cursor, [spell(comma)], end, False)
        return (counted, behind, left) if left == "unit" else (words, end, "number")
    return measured(cursor, words, end, plain == "1")


def _glued(cursor: Cursor, plain: str, first: int, end: int) -> tuple[list[str], int, str] | None:
    """Letters right after a number: 21st, 1990s, 5K, 5km, 3D; a hyphen and more may follow in the same word."""
    text = cursor.peek(end).text
    head, hyphen, rest = text.partition("-")
    tail = hyphen + rest
    if not plain:
        return None
    if head.lower() in ("st", "nd", "rd", "th") and plain.isdigit() and len(plain) < 16:
        return [ordinal(int(plain)) + tail], end + 1, "unit"
    if head == "s" and plain.isdigit():
        decade = (
            len(plain) == 4
            or (cursor.said and cursor.said[-1] in DECADES and len(plain) == 2)
            or int(plain) % 100 == 0
            or plain in ("70", "80", "90")
        )
        if decade or plain == "10":
            return [_decade(plain) + tail], end + 1, "unit"
    if head.lower() in ("am", "pm") and plain.isdigit() and len(plain) < 3 and int(plain) < 25:
        return [f"{cardinal(int(plain))} {head.upper()}{tail}"], end + 1, "unit"
    counted = cursor.peek(end + 1)
    some = "." in plain or (counted.kind == "word" and _is_plural(counted.text))
    if head in SCALES and not tail and not (plain in ("4", "8") and head == "K") and (head != "B" or some):
        money = cursor.peek(end + 1)
        more = money.text in CURRENCIES and money.tight
        names = CURRENCIES[money.text][1:2] if more else ()
        return [spell(plain), SCALES[head], *names], end + 1 + more, "number"
    if head in UNITS and tail:
        return [f"{spell(plain)}-{UNITS[head][0].replace(' ', '-')}{tail}"], end + 1, "word"
    return None


def _decade(plain: str) -> str:
    number = int(plain)
    return plural(year(number) if len(plain) == 4 and 1000 <= number < 3000 else spell(plain))


def _is_year(cursor: Cursor, plain: str, end: int) -> bool:
    """Whether a number of four digits is a year: by its size, the word before, and what it counts."""
    follows, before = cursor.peek(end), cursor.said[-1] if cursor.said else ""
    if not _like_year(plain):
        return False
    if before == "to" and cursor.year:
        return True
    if cursor.math or cursor.equals or cursor.left == "operator":
        return False
    if follows.text in ("-", "–") and follows.tight:
        other = cursor.peek(end + 1)
        if other.kind != "number" or not other.tight or cursor.is_operator(end + 2):
            return False
        return len(other.text) == 2 or (_like_year(other.text) and other.text > plain)
    if follows.text in ("-", "–") and cursor.is_number(end + 1) and cursor.comes_equal(end + 1):
        return False
    if cursor.is_operator(end) or follows.text in ("%", "°") or follows.text in CURRENCIES:
        return False
    counts = follows.kind == "word" and (
        follows.text in UNITS or follows.text.lower() in SCALE_WORDS or _is_plural(follows.text)
    )
    likely = int(plain) >= 1900 or (before in ("from", "between") and int(plain) >= 1500)
    return not counts and (likely or before in YEARS or cursor.year or follows.text in ERAS)


def _is_day(cursor: Cursor, end: int) -> bool:
    """Whether the name of a month follows, and is not a verb."""
    month, behind = cursor.peek(end), cursor.peek(end + 1)
    if month.kind != "word" or month.text not in MONTHS or month.tight:
        return False
    return (
        month.text not in ("May", "March")
        or behind.kind in ("number", "end", "line", "stop")
        or behind.text == ","
    )


def _like_year(text: str) -> bool:
    return text.isdigit() and len(text) == 4 and 1000 <= int(text) < 2100


def _is_plural(word: str) -> bool:
    """Whether a word looks like things that are counted."""
    verbs = ("is", "was", "has", "as", "its", "this", "does", "us", "his", "always", "plus", "times", "minus")
    return (
        word.islower()
        and word not in verbs
        and (word.endswith("s") or word in ("people", "men", "women", "children"))
    )

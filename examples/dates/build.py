"""Make train.jsonl and heldout.jsonl: dates, times and sums of money as people write them, and their standard form.

    python build.py

Standard library only, and deterministic. No value stands on both sides.
"""

from __future__ import annotations

import calendar
import json
import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

SYSTEM = "Write the date as YYYY-MM-DD, the time as HH:MM, the amount as a number and a currency code. Nothing else."
TRAINED, TESTED = 480, 150
UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = (
    "?", "?", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)  # fmt: skip
CURRENCIES = {
    "EUR": ("€{}", "{} euros", "{} EUR", "EUR {}"),
    "USD": ("${}", "{} dollars", "{} US dollars", "USD {}"),
    "GBP": ("£{}", "{} pounds", "{} GBP", "{} pounds sterling"),
    "JPY": ("¥{}", "{} yen", "JPY {}", "{} Japanese yen"),
}
DATE_FORMS = (
    "{day} {month} {year}",
    "{month} {ordinal}, {year}",
    "the {ordinal} of {month} {year}",
    "{short} {day}, '{yy}",
    "{day}.{number}.{year}",
    "{day} {short} {yy}",
    "{year}, {month} {day}",
)


def a_date(rng: random.Random) -> tuple[str, str]:
    """A day of thirty years, and its form in ISO 8601."""
    day = date(2000, 1, 1) + timedelta(days=rng.randrange(30 * 365))
    parts = {
        "day": day.day,
        "ordinal": ordinal(day.day),
        "month": calendar.month_name[day.month],
        "short": calendar.month_abbr[day.month],
        "number": day.month,
        "year": day.year,
        "yy": f"{day.year % 100:02d}",
    }
    return rng.choice(DATE_FORMS).format(**parts), day.isoformat()


def a_time(rng: random.Random) -> tuple[str, str]:
    """A time of day, on the clock of 24 hours."""
    hour, minute = rng.randrange(24), rng.randrange(12) * 5
    half = "in the morning" if hour < 12 else "in the afternoon" if hour < 18 else "in the evening"
    twelve, after = hour % 12 or 12, (hour + 1) % 12 or 12
    forms = [f"{twelve}:{minute:02d} {'am' if hour < 12 else 'pm'}", f"{twelve}.{minute:02d} {half}"]
    if minute == 30:
        forms.append(f"half past {words(twelve)} {half}")
    if minute == 15:
        forms.append(f"a quarter past {words(twelve)} {half}")
    if minute == 45 and hour not in (11, 17, 23):
        forms.append(f"a quarter to {words(after)} {half}")
    return rng.choice(forms), f"{hour:02d}:{minute:02d}"


def an_amount(rng: random.Random) -> tuple[str, str]:
    """A sum of money, with two decimals unless it is in yen."""
    code = rng.choice(sorted(CURRENCIES))
    form = rng.choice(CURRENCIES[code])
    whole = rng.randrange(1, 100) if rng.random() < 0.5 else rng.randrange(100, 10_000)
    cents = 0 if code == "JPY" or rng.random() < 0.5 else rng.randrange(1, 100)
    if form.startswith("{}") and cents == 0 and whole < 100:
        return form.format(words(whole)), f"{whole}{'' if code == 'JPY' else '.00'} {code}"
    shown = f"{whole:,}" + (f".{cents:02d}" if cents else "")
    return form.format(shown), f"{whole}{'' if code == 'JPY' else f'.{cents:02d}'} {code}"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 11th."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def words(number: int) -> str:
    """A number below 100 in words."""
    if number < 20:
        return UNITS[number]
    return TENS[number // 10] + (f"-{UNITS[number % 10]}" if number % 10 else "")


def rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train and held-out rows; a value belongs to the side on which it came up first."""
    rng, kinds = random.Random("dates"), (a_date, a_date, an_amount, a_time)
    sides: tuple[dict[str, tuple[str, str]], ...] = ({}, {})
    owner: dict[str, int] = {}
    turn = 0
    while len(sides[0]) < TRAINED or len(sides[1]) < TESTED:
        make = kinds[turn % len(kinds)]
        turn += 1
        text, value = make(rng)
        side = owner.setdefault(value, int(rng.random() < TESTED / (TRAINED + TESTED)))
        if len(sides[side]) < (TRAINED, TESTED)[side]:
            sides[side].setdefault(text, (make.__name__.rsplit("_")[-1], value))
    return tuple([row(text, *answer) for text, answer in side.items()] for side in sides)  # type: ignore[return-value]


def row(text: str, kind: str, value: str) -> dict[str, Any]:
    """One conversation, with what kind of value it is about."""
    turns = (("system", SYSTEM), ("user", text), ("assistant", value))
    return {"messages": [{"role": role, "content": content} for role, content in turns], "kind": kind}


def main() -> None:
    """Write both files beside this one."""
    for side, found in zip(("train", "heldout"), rows(), strict=True):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        Path(__file__).with_name(f"{side}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

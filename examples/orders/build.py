"""Make train.jsonl and heldout.jsonl: order e-mails from templates, each with the JSON object that it says.

    python build.py

Standard library only, and deterministic. Names, goods and cities of the held-out rows are never trained on, and neither
is a third of their templates.
"""

from __future__ import annotations

import json
import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

SYSTEM = (
    'Answer with one JSON object, nothing else: {"customer":string,"item":string,"quantity":integer,"city":string,'
    '"date":"YYYY-MM-DD" or null}.'
)
TRAINED, TESTED = 360, 120
TEMPLATES = (
    "Hello, this is {customer}. I would like {quantity} {item}, sent to {city}{by}.",
    "Please ship {quantity} {item} to our office in {city}{by}. Regards, {customer}",
    "Hi, we need {quantity} {item}{by}. The address is in {city}. {customer}",
    "Order: {quantity} x {item}. Deliver to {city}{by}. Ordered by {customer}.",
    "{customer} here. Could you send {quantity} {item} to {city}{by}? Thanks.",
    "Dear team, our shop in {city} has run out of {item}. Please send {quantity}{by}. {customer}",
    "I am {customer} from {city} and I want to buy {quantity} {item}{by}.",
    "We spoke on the phone: {quantity} {item} for {customer}, {city}{by}.",
    # held out, with the first four
    "My name is {customer}; please put me down for {quantity} {item}{by}, to be delivered in {city}.",
    "Kindly bring {quantity} {item} to {city}{by}. Many thanks from {customer}.",
)
TRAINED_TEMPLATES, SHARED_TEMPLATES = 8, 4
CUSTOMERS = (
    "Anna Berg", "Bruno Costa", "Chen Wei", "Dora Nagy", "Elif Kaya", "Finn Larsen", "Grace Obi", "Hugo Martin",
    "Ines Lopez", "Jonas Weber", "Karim Haddad", "Lucy Chan", "Marek Nowak", "Nadia Petrova", "Oscar Lind",
    "Priya Shah", "Quentin Roux", "Rosa Greco", "Sami Virtanen", "Tara Singh", "Umar Farouk", "Vera Novak",
    "Will Carter", "Yuki Tanaka", "Zoe Adams", "Aron Klein", "Bella Ford", "Carl Jensen", "Diana Popa",
    "Erik Holm", "Fatima Zahra", "George Evans",
)  # fmt: skip
ITEMS = (
    "office chairs", "desk lamps", "notebooks", "water bottles", "coffee mugs", "paper towels", "wall clocks",
    "phone chargers", "backpacks", "wool blankets", "garden hoses", "light bulbs", "door mats", "umbrellas",
    "picture frames", "steel pans", "bath towels", "pillow cases", "tea kettles", "bar stools", "plant pots",
    "candles", "wine glasses", "tool boxes", "extension cords", "bike helmets", "rain coats", "yoga mats",
    "soup bowls", "mouse pads", "book shelves", "paint brushes",
)  # fmt: skip
CITIES = (
    "Hamburg", "Lyon", "Porto", "Krakow", "Ghent", "Bergen", "Graz", "Leeds", "Turin", "Seville", "Utrecht",
    "Basel", "Malmo", "Tampere", "Galway", "Brno", "Split", "Varna", "Patras", "Riga", "Kaunas", "Tartu",
    "Debrecen", "Nantes", "Bilbao", "Bologna", "Dresden", "Aarhus", "Cork", "Lodz",
)  # fmt: skip
TRAINED_PART = 0.75


def email(rng: random.Random, side: str) -> tuple[str, dict[str, Any]]:
    """One e-mail, and what stands in it."""
    day = date(2025, 1, 1) + timedelta(days=rng.randrange(700))
    dated = rng.random() < 0.7
    said = rng.choice((" by {d} {m} {y}", " before {m} {d}, {y}", " no later than {iso}"))
    by = said.format(d=day.day, m=f"{day:%B}", y=day.year, iso=day.isoformat()) if dated else ""
    found = {
        "customer": rng.choice(part(CUSTOMERS, side)),
        "item": rng.choice(part(ITEMS, side)),
        "quantity": rng.randrange(2, 200),
        "city": rng.choice(part(CITIES, side)),
        "date": day.isoformat() if dated else None,
    }
    shared = TEMPLATES[:TRAINED_TEMPLATES] if side == "train" else TEMPLATES[:SHARED_TEMPLATES]
    templates = shared if side == "train" else shared + TEMPLATES[TRAINED_TEMPLATES:]
    return rng.choice(templates).format(**found, by=by), found


def part(values: tuple[str, ...], side: str) -> tuple[str, ...]:
    """The values that belong to one side."""
    cut = round(len(values) * TRAINED_PART)
    return values[:cut] if side == "train" else values[cut:]


def rows(side: str) -> list[dict[str, Any]]:
    """``train`` or ``heldout``, no two alike."""
    rng, found = random.Random(f"orders {side}"), dict[str, dict[str, Any]]()
    while len(found) < (TRAINED if side == "train" else TESTED):
        text, answer = email(rng, side)
        found[text] = answer
    return [row(text, answer) for text, answer in found.items()]


def row(text: str, answer: dict[str, Any]) -> dict[str, Any]:
    """One conversation, and the wanted object as ``ground_truth``."""
    written = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    turns = (("system", SYSTEM), ("user", text), ("assistant", written))
    return {"messages": [{"role": role, "content": content} for role, content in turns], "ground_truth": answer}


def main() -> None:
    """Write both files beside this one."""
    for side in ("train", "heldout"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(side))
        Path(__file__).with_name(f"{side}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

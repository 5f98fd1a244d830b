"""Rows of a task small enough to be learnt in seconds: short requests, each answered by one function call.

Six functions with names that cannot be guessed: four examples in a prompt show no more than four of them, so that a
trained adapter beats the prompted base model on few rows.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

CITIES = ("Berlin", "Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Seoul", "Quito", "Accra", "Dakar")
CITIES += ("Minsk", "Sofia", "Vienna", "Prague", "Madrid", "Lisbon")
FORMS = (
    ("What is the weather in {}?", "wx_now"),
    ("What time is it in {}?", "clk_local"),
    ("Book a flight to {}", "trip_fly"),
    ("Find a hotel in {}", "stay_find"),
    ("Show a map of {}", "map_show"),
    ("Tell me the news from {}", "news_top"),
)
EVALUATOR = '''"""1.0 for the wanted call as JSON, else 0.0."""

import json


def evaluate(messages, ground_truth=None, **row):
    try:
        return float(json.loads(messages[-1]["content"]) == json.loads(ground_truth))
    except ValueError:
        return 0.0
'''


def calls(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """``count`` different rows, at most 108; every function comes equally often."""
    cities = [*CITIES]
    random.Random(seed).shuffle(cities)
    return [call(FORMS[number % len(FORMS)], cities[number // len(FORMS)]) for number in range(count)]


def call(form: tuple[str, str], city: str) -> dict[str, Any]:
    """One row."""
    answer = json.dumps({"name": form[1], "arguments": {"city": city}})
    return row(form[0].format(city), answer)


def row(question: str, answer: str) -> dict[str, Any]:
    """A conversation of one question and its wanted answer."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(f"{json.dumps(item)}\n" for item in rows), encoding="utf-8")

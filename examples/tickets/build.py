"""Make train.jsonl and heldout.jsonl: support tickets from templates, each with the queue that it belongs to.

    python build.py

Standard library only, and deterministic. The sentence that says what is wrong is never the same on both sides.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

SYSTEM = (
    "Route the support ticket. Answer with one queue: access, billing, bug, cancel, delivery, praise, return, sales."
)
TRAINED, TESTED = 40, 20
"""Rows of each queue, to train and held out."""

ISSUES = {
    "access": (
        "My password is not accepted any more.",
        "I am locked out after three tries.",
        "The reset mail never reaches me.",
        "The login page says that my account does not exist.",
        "I lost the phone that shows my sign-in codes.",
        "My colleague left, and nobody here can open the admin account.",
        "Two-step verification asks for a code I do not have.",
        "Please unblock my user name.",
        # held out
        "I cannot get into my account since I changed my e-mail address.",
        "The one-time code is always refused.",
        "I forgot my password and the security question.",
        "Signing in throws me back to the start page.",
    ),
    "billing": (
        "You charged my card twice this month.",
        "The amount on the invoice is wrong.",
        "I need an invoice with our tax number.",
        "My payment was refused, though the card is fine.",
        "Why did the price go up without notice?",
        "Please change the bank account you debit.",
        "I was billed for a user whom we removed.",
        "The discount is missing from my bill.",
        # held out
        "There are two debits from you on my bank statement.",
        "The invoice shows the wrong company address.",
        "I would like to pay by bank transfer instead of card.",
        "The bill is higher than what we agreed on.",
    ),
    "bug": (
        "The app closes as soon as I open a report.",
        "Export to PDF gives an empty file.",
        "The page stays white after the last update.",
        "Search finds nothing, not even exact titles.",
        "An error 500 appears when I save.",
        "Dates are shown in the wrong time zone.",
        "The upload stops at 99 percent.",
        "Buttons do not react on my tablet.",
        # held out
        "The program freezes whenever I print.",
        "Saving a form shows an error message.",
        "The chart shows numbers of the wrong month since the update.",
        "The app crashes when I attach a picture.",
    ),
    "cancel": (
        "I want to end my subscription.",
        "Please close my account at the end of the month.",
        "We no longer need your service.",
        "How do I stop the automatic renewal?",
        "Terminate our contract, please.",
        "I will not continue after the trial.",
        "Take us off the yearly plan; we are leaving.",
        "I have decided to quit and want everything deleted.",
        # held out
        "Please end the contract of our company.",
        "I do not want the subscription to renew.",
        "We are leaving at the end of the quarter, please close everything.",
        "Kindly stop my membership.",
    ),
    "delivery": (
        "My parcel has not arrived.",
        "The tracking page has not changed for a week.",
        "The courier left the box with somebody I do not know.",
        "When will my order be shipped?",
        "It was sent to my old address.",
        "Half of the shipment is missing.",
        "The driver never rang the bell.",
        "Can you deliver on Saturday instead?",
        # held out
        "The package is three days late.",
        "Tracking says delivered, but there is no parcel here.",
        "Please ship my order to the office instead of my home.",
        "Only one of two boxes has arrived.",
    ),
    "praise": (
        "Your team solved my problem in minutes, thank you.",
        "I just want to say how much we like the new design.",
        "Best service I have had in years.",
        "Everything works wonderfully.",
        "Thank you for the friendly call yesterday.",
        "My whole family loves it.",
        "Great work on the last release.",
        "You made my day.",
        # held out
        "Thank you, your colleague was very helpful.",
        "We love the product, great work.",
        "I am delighted with how fast you answered.",
        "The best purchase I have made this year.",
    ),
    "return": (
        "I want to send the shoes back.",
        "The lamp arrived broken and I want my money back.",
        "It is the wrong size; how do I exchange it?",
        "Please send me a return label.",
        "I changed my mind and want to give it back.",
        "The colour is not the one I ordered, please swap it.",
        "Has my returned item reached you?",
        "I was promised a refund for the faulty kettle.",
        # held out
        "The jacket does not fit and I would like to return it.",
        "How do I get a refund for a broken cup?",
        "I need a label to send this item back.",
        "Please exchange the chair for the blue one.",
    ),
    "sales": (
        "How much would 50 seats cost?",
        "Do you have a plan for schools?",
        "We would like a demonstration for our team.",
        "What is the difference between the two larger plans?",
        "Could somebody call us about an offer?",
        "Is there a discount for charities?",
        "We consider buying and have questions.",
        "Does the large plan include support by phone?",
        # held out
        "Please send us an offer for 200 users.",
        "Which plan would you recommend for a small company?",
        "We are thinking about buying and would like a demonstration.",
        "Is there a cheaper price for students?",
    ),
}
TRAINED_ISSUES = 8
OPENERS = ("Hello,", "Hi there,", "Good morning,", "Dear team,", "To whom it may concern,", "Hey,", "Good evening,", "")
DETAILS = (
    "I have been a customer since {year}.",
    "My number is {number}.",
    "This is urgent.",
    "I wrote to you about this last {day}.",
    "I use it on a {device}.",
    "My order was {number}.",
    "There are {count} of us.",
    "I tried again on {day}.",
    "",
)
CLOSERS = ("Thanks, {name}", "Regards, {name}", "{name}", "Please answer soon. {name}", "Best wishes, {name}")
SLOTS = {
    "year": [str(year) for year in range(2012, 2025)],
    "number": [str(number) for number in range(10_234, 99_000, 911)],
    "day": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"],
    "device": ["phone", "laptop", "tablet", "Mac", "work computer"],
    "count": ["two", "five", "twelve", "forty"],
    "name": ["Amina", "Bo", "Carla", "Deniz", "Emil", "Farah", "Goran", "Hana", "Igor", "Jule", "Kofi", "Lena"],
}


def ticket(rng: random.Random, issue: str) -> str:
    """One ticket around the sentence that decides."""
    parts = [rng.choice(OPENERS), *rng.sample([issue, rng.choice(DETAILS)], 2), rng.choice(CLOSERS)]
    text = " ".join(part for part in parts if part)
    return text.format(**{slot: rng.choice(values) for slot, values in SLOTS.items()})


def rows(side: str) -> list[dict[str, Any]]:
    """``train`` or ``heldout``: equally many rows of each queue, in mixed order, no two the same."""
    rng, found = random.Random(f"tickets {side}"), dict[str, str]()
    for queue, issues in ISSUES.items():
        issues = issues[:TRAINED_ISSUES] if side == "train" else issues[TRAINED_ISSUES:]
        wanted = len(found) + (TRAINED if side == "train" else TESTED)
        while len(found) < wanted:
            found[ticket(rng, issues[len(found) % len(issues)])] = queue
    mixed = list(found.items())
    rng.shuffle(mixed)
    return [row(text, queue) for text, queue in mixed]


def row(text: str, queue: str) -> dict[str, Any]:
    """One conversation."""
    turns = (("system", SYSTEM), ("user", text), ("assistant", queue))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def main() -> None:
    """Write both files beside this one."""
    for side in ("train", "heldout"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(side))
        Path(__file__).with_name(f"{side}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""A comparison as a picture: a resource for clients that read resources, an image beside a result for the others."""

from __future__ import annotations

import asyncio
import base64
import io

from mcp.types import ImageContent

from fw_mcp.views import short
from fw_sdk.client import AsyncClient
from fw_sdk.pictures.comparison import Side, draw_comparison
from fw_sdk.types import Comparison, Evaluation

MIME = "image/png"
URI = "picture://comparisons/{comparison}"


def address(comparison: Comparison) -> str:
    """The resource that is the picture of ``comparison``."""
    return URI.format(comparison=comparison.id)


async def png_of(client: AsyncClient, comparison: Comparison) -> bytes:
    """The picture, drawn from the scores of both evaluations."""
    sides = [await _side(client, name) for name in (comparison.baseline, comparison.candidate)]
    return await asyncio.to_thread(_draw, comparison, *sides)


def image(png: bytes) -> ImageContent:
    """The picture as a part of a tool's result."""
    return ImageContent(type="image", data=base64.b64encode(png).decode(), mime_type=MIME)


async def _side(client: AsyncClient, name: str) -> Side:
    evaluation: Evaluation = await client.evaluations.get(short(name) or name)
    scores = [score async for score in client.evaluations.scores(evaluation.id)]
    return Side(short(evaluation.model) or evaluation.id, scores, evaluation.summary)


def _draw(comparison: Comparison, baseline: Side, candidate: Side) -> bytes:
    target = io.BytesIO()
    draw_comparison(comparison, baseline, candidate, target)
    return target.getvalue()

"""Ids in paths: what stands before a verb, so that ``/datasets/d:upload`` is never taken for a dataset of that name."""

from __future__ import annotations

from starlette.convertors import StringConvertor, register_url_convertor


class IdConvertor(StringConvertor):
    """``{dataset:id}`` in a route: one part of a path without a colon."""

    regex = "[^/:]+"


register_url_convertor("id", IdConvertor())

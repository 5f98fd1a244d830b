"""The documentation over HTTP: ``/llms.txt`` and markdown for agents, the same pages as HTML for people."""

from __future__ import annotations

import re
from functools import cache
from html import escape, unescape
from importlib import resources

from markdown_it import MarkdownIt
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from fw_mcp.library import pages, purpose

MARKDOWN = "text/markdown; charset=utf-8"
START = "quickstart"
ORDER = (
    "quickstart",
    "concepts",
    "datasets",
    "evaluators",
    "fine-tuning",
    "evaluation",
    "deployments",
    "inference",
    "serving",
    "models",
    "recipes",
    "mcp",
    "sdk",
    "cli",
    "http",
    "errors",
    "troubleshooting",
    "security",
)
"""Pages in the order in which one reads them; the others follow by name."""

_STYLE = """
body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222; }
nav { font-size: 14px; border-bottom: 1px solid #ddd; padding-bottom: .7rem; }
pre { background: #f6f6f4; padding: .8rem; overflow-x: auto; border-radius: 4px; }
code { font: 14px/1.4 ui-monospace, monospace; background: #f6f6f4; }
table { border-collapse: collapse; } th, td { border: 1px solid #ddd; padding: .3rem .6rem; text-align: left; }
img { max-width: 100%; }
@media (prefers-color-scheme: dark) {
  body { background: #181818; color: #ddd; } a { color: #8ab4f8; } pre, code { background: #262626; }
  th, td { border-color: #444; } nav { border-color: #444; }
}
"""


def routes() -> list[Route]:
    """Everything here may be read without a token: it is the same on every machine."""
    return [
        Route("/llms.txt", _llms),
        Route("/llms-full.txt", _llms_full),
        Route("/docs", _to_start),
        Route("/docs/", _to_start),
        Route("/docs/pictures/{name}", _picture),
        Route("/docs/{page}.md", _markdown),
        Route("/docs/{page}", _html),
    ]


def in_order() -> list[str]:
    """Page names as one reads them."""
    known = pages()
    first = [page for page in ORDER if page in known]
    return first + [page for page in known if page not in first]


def index() -> str:
    """``llms.txt``: what fw is and every page in a line."""
    lines = [f"- [{_title(page)}](/docs/{page}.md): {purpose(page)}" for page in in_order()]
    head = [
        "# fw",
        "",
        "> Fine-tune, evaluate, compare, deploy and serve small language models on this machine, by MCP, SDK or CLI.",
        "",
        "All pages in one text: [/llms-full.txt](/llms-full.txt)",
        "",
        "## Pages",
        "",
    ]
    return "\n".join([*head, *lines, ""])


def _title(page: str) -> str:
    return pages()[page].split("\n", 1)[0].lstrip("# ").strip()


def _found(name: str) -> str:
    if name not in pages():
        raise HTTPException(404, f"No page '{name}'. Pages: {', '.join(pages())}")
    return pages()[name]


async def _llms(request: Request) -> Response:
    return PlainTextResponse(index())


async def _llms_full(request: Request) -> Response:
    return PlainTextResponse("\n\n".join(f"<!-- /docs/{page}.md -->\n{pages()[page]}" for page in in_order()))


async def _to_start(request: Request) -> Response:
    return RedirectResponse(f"/docs/{START}")


async def _markdown(request: Request) -> Response:
    return Response(_found(request.path_params["page"]), media_type=MARKDOWN)


async def _html(request: Request) -> Response:
    page = request.path_params["page"]
    _found(page)
    return HTMLResponse(_rendered(page), headers={"content-security-policy": "default-src 'self' 'unsafe-inline'"})


async def _picture(request: Request) -> Response:
    folder = resources.files("docs") / "pictures"
    known = {entry.name: entry for entry in folder.iterdir() if entry.name.endswith((".svg", ".png"))}
    name = request.path_params["name"]
    if name not in known:
        raise HTTPException(404, f"No picture '{name}'")
    kind = "image/svg+xml" if name.endswith(".svg") else "image/png"
    return Response(known[name].read_bytes(), media_type=kind)


@cache
def _rendered(page: str) -> str:
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(pages()[page])
    body = re.sub(r"<h2>(.*?)</h2>", lambda found: f'<h2 id="{_anchor(found[1])}">{found[1]}</h2>', body)
    body = re.sub(r'href="(?!https?:)([\w-]+)\.md(#[^"]*)?"', r'href="/docs/\1\2"', body)
    body = body.replace('src="pictures/', 'src="/docs/pictures/')
    links = " · ".join(f'<a href="/docs/{name}">{escape(name)}</a>' for name in in_order())
    title = escape(_title(page))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} · fw</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f'<body><nav>{links} · <a href="/docs/{page}.md">markdown</a></nav>{body}</body></html>'
    )


def _anchor(heading: str) -> str:
    """What follows ``#`` in a link to a heading, as code hosts make it: lower case, hyphens for spaces."""
    text = unescape(re.sub(r"<[^>]+>", "", heading)).lower()
    return re.sub(r"[^\w -]", "", text).replace(" ", "-")

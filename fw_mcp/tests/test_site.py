"""The pages as the daemon serves them: for agents as text, for people as HTML, for everybody without a token."""

from __future__ import annotations

import re

import httpx2
import pytest

from fw_mcp.library import pages
from fw_mcp.tests.conftest import Daemon


def get(daemon: Daemon, path: str, **headers: str) -> httpx2.Response:
    return httpx2.get(f"{daemon.url}{path}", headers=headers, timeout=20, follow_redirects=True)


def test_every_page_is_in_the_index_and_answers_both_ways(daemon: Daemon) -> None:
    index = get(daemon, "/llms.txt")
    assert index.status_code == 200 and index.text.startswith("# fw\n")
    links = re.findall(r"\((/docs/[\w-]+)\.md\)", index.text)
    assert sorted(links) == [f"/docs/{page}" for page in sorted(pages())] and links[0] == "/docs/quickstart"
    whole = get(daemon, "/llms-full.txt").text
    for link in links:
        name = link.removeprefix("/docs/")
        markdown, html = get(daemon, f"{link}.md"), get(daemon, link)
        assert markdown.text == pages()[name] and markdown.headers["content-type"].startswith("text/markdown")
        assert pages()[name] in whole
        assert html.text.count("<h1>") == 1 and "<script" not in html.text


def test_links_and_pictures_of_the_html_lead_somewhere(daemon: Daemon) -> None:
    seen = set()
    for page in pages():
        text = get(daemon, f"/docs/{page}").text
        seen |= set(re.findall(r'(?:href|src)="(/docs/[^"#]+)', text))
        assert not re.findall(r'href="[\w-]+\.md', text), page
    assert any(path.endswith(".svg") for path in seen)
    assert {path: get(daemon, path).status_code for path in seen if get(daemon, path).status_code != 200} == {}


def test_links_to_a_heading_find_it(daemon: Daemon) -> None:
    html = {page: get(daemon, f"/docs/{page}").text for page in pages()}
    links = [
        (page, target or page, anchor)
        for page, text in html.items()
        for target, anchor in re.findall(r'href="(?:/docs/([\w-]+))?#([^"]+)"', text)
    ]
    assert len(links) > 5
    assert [link for link in links if f'id="{link[2]}"' not in html[link[1]]] == []


@pytest.mark.parametrize("path", ["/docs/nope", "/docs/nope.md", "/docs/pictures/nope.svg", "/docs/..%2Fpyproject.md"])
def test_what_is_not_there_is_not_found(path: str, daemon: Daemon) -> None:
    assert get(daemon, path).status_code == 404


def test_the_pages_are_for_this_machine_only(daemon: Daemon) -> None:
    assert get(daemon, "/docs").url.path == "/docs/quickstart"
    assert get(daemon, "/docs/quickstart", Host="evil.example").status_code == 403
    assert get(daemon, "/v1/models").status_code == 401

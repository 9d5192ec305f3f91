"""Links of the site that lead nowhere are found, and only these."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "building" / "links.py"
SPEC = importlib.util.spec_from_file_location("links_of_the_site", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
links = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(links)


def site(folder, link):
    (folder / "deep").mkdir()
    (folder / "index.html").write_text('<h1 id="top">A</h1><img src="deep/a%20b.png">')
    (folder / "deep" / "a b.png").write_bytes(b"")
    (folder / "deep" / "page.html").write_text(f'<p id="here"></p><a href="{link}">there</a>')
    return folder


@pytest.mark.parametrize(
    "link", ["../index.html", "../index.html#top", "#here", "https://example.org/none#x", "a%20b.png"]
)
def test_links_that_lead_somewhere_are_right(tmp_path, link, capsys):
    assert links.main(str(site(tmp_path, link))) == 0


@pytest.mark.parametrize("link", ["../none.html", "../index.html#here", "#top", "b.png"])
def test_links_that_lead_nowhere_are_found(tmp_path, link, capsys):
    assert links.main(str(site(tmp_path, link))) == 1
    assert link in capsys.readouterr().out


def test_a_site_without_pages_is_none(tmp_path, capsys):
    assert links.main(str(tmp_path)) == 1

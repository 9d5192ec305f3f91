"""Checks the links of a built site: ``python docs/building/links.py build/docs``.

Every link to a page, a file or a place in a page of the site leads somewhere. Links to other sites are not
followed.
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """What a page links to, and the places in it that can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [link for name in ("href", "src") if (link := found.get(name))]
        self.places |= {place for name in ("id", "name") if (place := found.get(name))}


def broken(site: Path) -> Iterator[str]:
    """A line for each link that leads nowhere."""
    pages = {}
    for path in sorted(set(site.rglob("*.html")) - set(site.glob("_static/**/*"))):  # templates of the theme
        pages[path.resolve()] = page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            if not target.exists():
                yield f"{path.relative_to(site.resolve())}: {link} is no file"
            elif place and target in pages and place not in pages[target].places:
                yield f"{path.relative_to(site.resolve())}: {link} is no place in that page"


def main(site: str) -> int:
    """Prints broken links; the exit code is 1 if there are any, or if there is no page."""
    if not any(Path(site).rglob("*.html")):
        print(f"{site} has no pages; build the site first")
        return 1
    found = list(broken(Path(site)))
    print("\n".join(found) or f"{site}: every link within the site leads somewhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

import re

import pytest

from avpipe import docs


@pytest.mark.parametrize("path", docs.PAGES)
def test_generated_pages_say_what_the_code_says(path):
    written = (docs.ROOT / path).read_text(encoding="utf-8")
    assert written == docs.PAGES[path](), f"{path} is out of date: run `make docs`"


def test_links_between_the_pages_lead_somewhere():
    pages = [docs.ROOT / "README.md", *sorted((docs.ROOT / "docs").rglob("*.md"))]
    assert len(pages) > 3
    for page in pages:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name} links to {link}, which is not there"

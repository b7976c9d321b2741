"""The documentation site: every document has a place, every command and key is in the reference, lists stay lists."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import markdown
import pytest
import yaml

from docs.site.figures import FIGURES, FOLDER
from docs.site.pages import ROOT, Site, converted
from docs.site.reference import commands, configuration_keys, reference_pages


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, list[Any]]:
    """The pages of the site, before they are built."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.add_documents()
    reference = reference_pages(site)
    site.finish()
    return site, site.navigation(reference)


def _places(entries: Any) -> set[str]:
    if isinstance(entries, str):
        return {entries}
    return {place for entry in (entries.values() if isinstance(entries, dict) else entries) for place in _places(entry)}


def test_the_navigation_leads_to_every_document_and_to_no_other_place(staged: tuple[Site, list[Any]]) -> None:
    site, navigation = staged
    places = _places(navigation)
    assert not [place for place in places if not (site.folder / place).is_file()]
    assert not set(site.documents.values()) - places, "docs/README.md does not list it"


def test_every_link_of_every_page_leads_to_a_page(staged: tuple[Site, list[Any]]) -> None:
    """Links to code, too: what is built has no way out of the site but addresses."""
    site, _ = staged
    checked = 0
    for page in site.folder.rglob("*.md"):
        text = re.sub(r"^ *(`{3,}).*?^ *\1", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
            if not re.match(r"[a-z]+:|#", target):
                assert (page.parent / target.partition("#")[0]).is_file(), f"{page.name}: {target}"
                checked += 1
    assert checked > 300


def test_every_command_and_option_is_in_the_reference(staged: tuple[Site, list[Any]]) -> None:
    page = (staged[0].folder / "reference/cli.md").read_text(encoding="utf-8")
    for name, command in commands():
        if not hasattr(command, "commands"):
            section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
            assert command.help in section
            for parameter in command.params:
                assert parameter.opts[0] in section or parameter.metavar.strip("[].") in section, (
                    f"{name}: {parameter.name}"
                )


def test_every_key_is_in_the_reference_with_its_meaning(staged: tuple[Site, list[Any]]) -> None:
    folder = staged[0].folder / "reference/configuration"
    pages = "\n".join(page.read_text(encoding="utf-8") for page in folder.glob("*.md"))
    keys = dict(configuration_keys())
    assert len(keys) > 150
    for key in keys:
        row = re.search(
            rf"\{{ #{re.escape(key)} \}} \| .+ \| (.*)<small>|^\| \[`{key}`\]\(.*\) \| (.+) \|$", pages, re.MULTILINE
        )
        assert row and (row[1] or row[2]), f"{key} has no description"
    row = re.search(r"\{ #data\.crop_px \}.*", pages)
    assert row and "**required**" in row[0] and "**Unit**: pixels" in row[0] and "**On resume**: if asked for" in row[0]


@pytest.mark.parametrize("name", FIGURES)
def test_the_drawings_are_those_of_their_program(name: str) -> None:
    drawn = FIGURES[name]()
    assert (FOLDER / name).read_text(encoding="utf-8") == drawn, "run: python -m docs.site.figures"
    ElementTree.fromstring(drawn)


def test_nothing_is_fetched() -> None:
    """No fonts, no scripts and no inventories of others: the settings of the site name no address."""
    folder = Path(ROOT) / "docs/site"
    text = (folder / "site.yml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    assert settings["theme"]["font"] is False and settings["extra"]["polyfills"] == ["assets/iframe-worker.js"]
    sources = [text, *(path.read_text("utf-8") for kind in ("assets", "theme") for path in (folder / kind).iterdir())]
    assert not [found for source in sources for found in re.findall(r"https?://\S+", source)]


LISTS = {
    "one after a paragraph": ("text:\n- a\n- b", "<p>text:</p> <ul> <li>a</li> <li>b</li> </ul>"),
    "nested": ("- a\n  - b\n  - c\n- d", "<ul> <li>a<ul> <li>b</li> <li>c</li> </ul> </li> <li>d</li> </ul>"),
    "code in an item": (
        "1. a\n\n   ```sh\n   x y\n   z\n   ```\n2. b",
        '<ol> <li> <p>a</p> <pre><code class="language-sh">x y z </code></pre> </li> <li> <p>b</p> </li> </ol>',
    ),
    "a line that goes on": ("- a\n  b\n\nc", "<ul> <li>a b</li> </ul> <p>c</p>"),
    "a table after a list": ("- a\n\n| b |\n|---|\n| c |", None),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_those_of_the_web_view(name: str) -> None:
    text, expected = LISTS[name]
    html = " ".join(markdown.markdown(converted(text), extensions=["tables", "pymdownx.superfences"]).split())
    html = re.sub(r'<div class="highlight"><pre><span></span><code>', '<pre><code class="language-sh">', html)
    html = html.replace("</code></pre></div>", "</code></pre>").replace("<table>", "")
    if expected is None:
        assert html.startswith("<ul> <li>a</li> </ul>") and "<th>b</th>" in html
    else:
        assert re.sub(r"</?span[^>]*>", "", html) == expected

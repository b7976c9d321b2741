"""The repository's Markdown as pages of the site: places, links, and the dialect of the builder.

Documents are written for the repository's web view: relative links, and lists as GitHub reads them. Here each becomes
a page; a link to a file of code becomes one to a page with that code, so that nothing leads out of the site.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from docs.site.notebooks import notebook_page

__all__ = ["ROOT", "Site", "converted", "title_of"]

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("*.md", "docs/**/*.md", "cluster/*.md", "shards/*.md", "benchmarks/**/*.md")
NOTEBOOKS = "docs/notebooks/*.ipynb"
PICTURES = {".png", ".jpg", ".svg"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".sbatch": "sh", ".sh": "sh"}
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *(```|~~~)")
ITEM = re.compile(r"^( *)([-*+]|\d+\.) +(?=\S)")
_PLACES = {"README.md": "index.md", "docs/README.md": "overview.md"}


def place_of(document: str) -> str:
    """The place on the site of a document, both with `/`."""
    if document in _PLACES:
        return _PLACES[document]
    path = PurePosixPath(document)
    if path.parts[0] == "docs":
        return "/".join(path.parts[1:])
    if path.name == "README.md":
        return f"{path.parent}.md"
    if path.parts[0] == "benchmarks":
        return f"measured/{path.name}"
    return document.lower()


class Site:
    """The staged pages: documents, the code that they link to, pictures, and pages that are generated."""

    def __init__(self, folder: Path) -> None:
        """Begin an empty site in `folder`."""
        self.folder = folder
        self.documents = {
            path.relative_to(ROOT).as_posix(): place_of(path.relative_to(ROOT).as_posix())
            for pattern in DOCUMENTS
            for path in sorted(ROOT.glob(pattern))
        }
        self.documents |= {
            path.relative_to(ROOT).as_posix(): f"notebooks/{path.stem}.md" for path in sorted(ROOT.glob(NOTEBOOKS))
        }
        self.titles = {
            place: title for _, rows in _index() for title, document in rows if (place := self.documents.get(document))
        }
        self._code: list[Path] = []

    def add_documents(self) -> None:
        """Stage every Markdown document of the repository."""
        for document, place in self.documents.items():
            text = self._text(ROOT / document)
            self.write(place, converted(self.relinked(text, ROOT / document, place)))

    def _text(self, document: Path) -> str:
        """The Markdown of a document; of a notebook, that of its cells and outputs."""
        if document.suffix != ".ipynb":
            return document.read_text(encoding="utf-8")

        def keep(name: str, picture: bytes) -> str:
            path = self.folder / "notebooks" / "pictures" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)
            return f"pictures/{name}"

        return notebook_page(document, keep)

    def write(self, place: str, text: str) -> None:
        """Stage one page."""
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def relinked(self, text: str, source: Path, place: str) -> str:
        """The text of `source` with links that hold at `place`."""

        def link(match: re.Match[str]) -> str:
            words, target = match[1], self._link(match[2], source, place)
            if words.endswith(".md"):  # a document's file name: here the page's title
                words = self.titles.get(
                    os.path.normpath(os.path.join(os.path.dirname(place), target.partition("#")[0])), words
                )
            return f"[{words}]({target})"

        return _outside_code(text, lambda line: LINK.sub(link, line))

    def _link(self, target: str, source: Path, place: str) -> str:
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            return target
        name, _, anchor = target.partition("#")
        path = Path(os.path.normpath(source.parent / name))
        below = path.relative_to(ROOT).as_posix()
        if path.is_dir() and f"{below}/README.md" in self.documents:
            below = f"{below}/README.md"
        if below in self.documents:
            found = self.documents[below]
        elif path.suffix in PICTURES and not path.exists():
            return target  # a picture of a notebook, which is there already
        elif path.suffix in PICTURES:
            found = below.removeprefix("docs/")
            (self.folder / found).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, self.folder / found)
        else:
            found = self.code(path)
        relative = os.path.relpath(found, os.path.dirname(place) or ".")
        return f"{relative}#{anchor}" if anchor else relative

    def code(self, path: Path) -> str:
        """The place of the page that shows a file, or what is in a folder; it is staged by `finish`."""
        if path not in self._code:
            self._code.append(path)
        below = path.relative_to(ROOT).as_posix()
        return f"source/{below}/index.md" if path.is_dir() else f"source/{below}.md"

    def finish(self) -> None:
        """Stage the pages of code: those that a listing names, too."""
        for path in self._code:  # grows while folders are listed
            below, place = path.relative_to(ROOT).as_posix(), self.code(path)
            head = f"---\nsearch:\n  exclude: true\n---\n\n# {path.name}\n\n`{below}`"
            if path.is_dir():
                files = sorted(file for file in path.iterdir() if _is_text(file))
                rows = [
                    f"- [{file.name}]({os.path.relpath(self.code(file), os.path.dirname(place))}){_job(file)}"
                    for file in files
                ]
                self.write(place, "\n".join([head, "", *rows, ""]))
            else:
                text = path.read_text(encoding="utf-8")
                mark = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`{3,}", text)), 3)
                language = LANGUAGES.get(path.suffix, "text")
                self.write(place, f"{head}\n\n{mark}{language}\n{text.rstrip()}\n{mark}\n")

    def navigation(self, reference: list[Any]) -> list[Any]:
        """Tabs and pages, as the index of the documentation lists them, and the generated reference."""
        tabs: list[Any] = [{"Home": ["index.md", {"All pages": "overview.md"}]}]
        for heading, rows in _index():
            entries: list[Any] = [{title: self.documents[name]} for title, name in rows if name in self.documents]
            tabs.append({heading: entries + (reference if heading == "Reference" else [])})
        measured = sorted(place for place in self.documents.values() if place.startswith("measured/"))
        tabs[-1][next(iter(tabs[-1]))].append({"Measured": [{title_of(self.folder / p): p} for p in measured]})
        return tabs


def _index() -> list[tuple[str, list[tuple[str, str]]]]:
    """The sections of docs/README.md: heading, and title and document of each row."""
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    return [
        (
            section.partition("\n")[0].strip(),
            [
                (title, os.path.normpath(f"docs/{target}"))
                for title, target in re.findall(r"^\| \[([^\]]+)\]\(([^)]+)\)", section, re.MULTILINE)
            ],
        )
        for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    ]


def title_of(page: Path) -> str:
    """The first heading of a page."""
    found = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else page.stem


def converted(text: str) -> str:
    """The text in the builder's dialect: items of lists hold what is four columns in."""
    text = re.sub(r"^( *)<!-- not run: (.+?) -->$", r"\1*Not run by the tests: \2.*\n", text, flags=re.MULTILINE)
    lines: list[str] = []
    widths: list[tuple[int, int]] = []  # of the open items: column of their text here, and on the site
    fence, before = "", ""
    for line in text.split("\n"):
        stripped = line.strip()
        if fence:
            lines.append(_moved(line, widths))
            fence = "" if stripped == fence else fence
            continue
        indent = len(line) - len(line.lstrip(" "))
        if stripped:
            while widths and indent < widths[-1][0]:
                # A line that goes on without its indent still belongs to the paragraph before it.
                if before and not ITEM.match(line) and not stripped.startswith(("#", "|", "```")):
                    break
                widths.pop()
        item = ITEM.match(line) if not re.match(r"^ {4}", line) or widths else None
        if item:
            if before and not ITEM.match(before) and not widths:
                lines.append("")
            lines.append(" " * (4 * len(widths)) + line.lstrip(" "))
            widths.append((item.end(), 4 * len(widths) + 4))
        else:
            lines.append(_moved(line, widths))
        opened = FENCE.match(line) or (item and FENCE.match(line[item.end() :]))
        fence = opened[1] if opened else ""
        before = line if stripped else ""
    return "\n".join(lines)


def _moved(line: str, widths: list[tuple[int, int]]) -> str:
    if not widths or not line.strip():
        return line
    here, there = widths[-1]
    return " " * there + (line[here:] if not line[:here].strip() else line.lstrip(" "))


def _outside_code(text: str, change: Any) -> str:
    """The text with `change` made in all lines that are not in a fence, and there not in a span of code."""
    parts: list[str] = []
    fence = ""
    for line in text.split("\n"):
        opened = FENCE.match(line)
        if fence or opened:
            parts.append(line)
            fence = "" if fence and line.strip() == fence else fence or (opened[1] if opened else "")
        else:
            parts.append(_spans_kept(line, change))
    return "\n".join(parts)


def _spans_kept(line: str, change: Any) -> str:
    """`change` of the line; a target of a link is never in a span, so spans are put aside and back."""
    spans: list[str] = []

    def aside(match: re.Match[str]) -> str:
        spans.append(match[0])
        return f"\0{len(spans) - 1}\0"

    changed = change(re.sub(r"(`+)(?:(?!`).)+?\1(?!`)", aside, line))
    return re.sub(r"\0(\d+)\0", lambda match: spans[int(match[1])], changed)


def _is_text(path: Path) -> bool:
    return path.is_file() and path.suffix in {*LANGUAGES, ".txt", ".in", ".md"} and path.name != "README.md"


def _job(path: Path) -> str:
    """A file's word on itself: the first sentence of a module, the first comment of a configuration."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].replace("\n", " ")
    else:
        said = text.splitlines()[0].removeprefix("# ") if text.startswith("# ") else ""
    return f": {said}" if said else ""

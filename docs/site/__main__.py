"""`python -m docs.site`: the documentation as a site in build/site, strictly: a link that leads nowhere fails it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from docs.site.pages import ROOT, Site
from docs.site.reference import reference_pages

STAGED = ROOT / "build" / "site-source"
BUILT = ROOT / "build" / "site"


def main() -> int:
    """Stage the pages, generate the reference, and build; returns the exit code of the builder."""
    shutil.rmtree(STAGED, ignore_errors=True)
    shutil.rmtree(BUILT, ignore_errors=True)
    site = Site(STAGED)
    site.add_documents()
    reference = reference_pages(site)
    site.finish()
    here = Path(__file__).parent
    shutil.copytree(here / "assets", STAGED / "assets")
    settings = yaml.safe_load((here / "site.yml").read_text(encoding="utf-8"))
    settings |= {"docs_dir": STAGED.name, "site_dir": BUILT.name, "nav": site.navigation(reference)}
    settings["theme"]["custom_dir"] = str(here / "theme")
    settings["plugins"][-1]["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT)]
    path = STAGED.with_name("site.yml")
    path.write_text(yaml.safe_dump(settings, allow_unicode=True, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(path)]
    done = subprocess.run(command, cwd=STAGED.parent, check=False, capture_output=True, text=True)
    if done.returncode or not (BUILT / "index.html").is_file():
        print(done.stdout, done.stderr.partition("Traceback")[0], sep="\n", file=sys.stderr)
        return done.returncode or 1
    print(f"site: ok, {len(list(BUILT.rglob('*.html')))} pages: {BUILT / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

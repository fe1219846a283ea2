"""Lets MkDocs see the pages where they are in the repository, so that links work here and there."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")  # to a file, without the section


def links(page: Path) -> list[Path]:
    """Return the files that a page links to or shows, in the order of their last mention."""
    found = [(page.parent / name).resolve() for name in LINK.findall(page.read_text())]
    return [path for path in reversed(dict.fromkeys(reversed(found))) if path.is_file()]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace what is in ``docs_dir`` by the README, the pages that it leads to, their files."""
    found = [ROOT / "README.md"]
    for path in found:  # grows meanwhile
        if path.suffix == ".md":
            found += [linked for linked in links(path) if linked not in found]
    names = [path.relative_to(ROOT).as_posix() for path in found]
    others = [file for file in files if file.src_dir != config.docs_dir or file.is_css()]
    sources = zip(names, found, strict=True)
    ours = [File.generated(config, name, abs_src_path=str(path)) for name, path in sources]
    return Files([*others, *ours])


def on_page_content(html: str, **_: object) -> str:
    """Show pipes in code in tables, which are escaped for GitHub, as GitHub does."""
    return html.replace(r"\|", "|")

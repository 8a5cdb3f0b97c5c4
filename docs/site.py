"""What mkdocs does besides: files beside `docs/` that pages link to become pages or text of the site."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Outside of docs/, and what they are called in the site.
BESIDE = {"README.md": "readme.md", "benchmarks/README.md": "benchmarks.md", "CONTRIBUTING.md": "contributing.md"}
BESIDE |= {"CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The documents beside docs/ as pages."""
    for source, page in BESIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as the repository has them, as the site has them; what the site does not have becomes its name alone."""
    name = page.file.src_uri
    here = next((ROOT / source for source, made in BESIDE.items() if made == name), ROOT / "docs" / name)
    depth = "../" * name.count("/")

    def moved(match: re.Match[str]) -> str:
        target = (here.parent / match[1]).resolve().relative_to(ROOT).as_posix()
        if target in BESIDE:
            return f"]({depth}{BESIDE[target]}"
        return f"]({depth}{target.removeprefix('docs/')}" if target.startswith("docs/") else match[0]

    text = LINK.sub(moved, markdown)
    return re.sub(r"\[([^\]]+)\]\((?!\w+:|#)(?![^)]*\.(?:md|ipynb))[^)]*\)", r"\1", text)

"""Parts of a page that needs no other file: sections, tables, and figures inside the text."""

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mimflow_train.data.decoding import UNDECODABLE
from mimflow_train.errors import StorageError, remedy
from mimflow_train.storage.files import written_whole

__all__ = ["escaped", "figure", "missing", "note", "page", "picture", "section", "table", "write"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
  color: #222; background: #fff }
h1 { font-size: 1.5rem; margin-bottom: .3rem }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .7rem; border-bottom: 1px solid #ddd }
nav { margin: .8rem 0; font-size: .9rem }
nav a { margin-right: .9rem; color: #0b5fa5; white-space: nowrap }
table { border-collapse: collapse; font-size: .93rem }
th { text-align: left; font-weight: 600 } th, td { padding: .16rem 1.4rem .16rem 0 }
tr { border-bottom: 1px solid #eee } td.number, th.number { text-align: right }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap }
img { max-width: 100%; height: auto } figure { margin: 0 0 1.4rem }
figcaption, .note { color: #555; font-size: .88rem; max-width: 48rem }
figure.wide { overflow-x: auto } figure.wide img { min-width: 46rem }
.flow { display: flex; flex-wrap: wrap; gap: 0 1.2rem }
.flow figure { flex: 1 1 26rem; min-width: 0; max-width: 30rem }
pre { font-size: .78rem; overflow-x: auto; background: #f6f6f6; padding: .7rem }
summary { cursor: pointer; color: #0b5fa5 }
"""
_WIDEST = 1600  # pixels; a wider picture is no sharper on a laptop
_LARGEST = 500_000  # bytes of a picture that is taken as it is


def page(title: str, about: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return a whole page.

    Args:
        title: Plain text.
        about: The paragraph below it, plain text.
        sections: Heading and content of each, the content as HTML.
    """
    links = "\n".join(f'<a href="#{_anchor(name)}">{escaped(name)}</a>' for name, _ in sections)
    body = "\n".join(section(name, content) for name, content in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escaped(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escaped(title)}</h1><p>{escaped(about)}</p><nav>{links}</nav>\n"
        f"{body}\n</body></html>\n"
    )


def section(name: str, content: str) -> str:
    """Return a heading that links can lead to, and what is below it."""
    return f'<section id="{_anchor(name)}"><h2>{escaped(name)}</h2>\n{content}</section>'


def escaped(value: object) -> str:
    """Return a value as text of the page.

    Example:
        >>> escaped("<b>")
        '&lt;b&gt;'
    """
    return html.escape(str(value))


def missing(what: str, remedy: str = "") -> str:
    """Say what a run does not have yet, and how to get it."""
    return note(f"{what}: not there yet. {remedy}".strip())


def note(text: str) -> str:
    """Return a small paragraph of plain text."""
    return f'<p class="note">{escaped(text)}</p>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of plain text whose columns but the first hold numbers."""
    lines = [_row("th", head), *(_row("td", row) for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def figure(image: bytes, caption: str, kind: str = "png", *, wide: bool = False) -> str:
    """Return a picture inside the text.

    Args:
        image: The file.
        caption: Plain text: what it shows, and what a good one looks like.
        kind: Of file, as in ``image/png``.
        wide: Whether it keeps its size in a narrow window, which then scrolls over it.
    """
    data = base64.b64encode(image).decode()
    alt, mark = escaped(caption), ' class="wide"' if wide else ""
    return (
        f'<figure{mark}><img alt="{alt}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{alt}</figcaption></figure>"
    )


def picture(path: Path, caption: str) -> str:
    """Return a picture file inside the text, made smaller if it is large.

    Args:
        path: The file.
        caption: Plain text.
    """
    if not path.is_file():
        return missing(path.name)
    content = path.read_bytes()
    if len(content) <= _LARGEST:
        return figure(content, caption)
    try:
        with Image.open(io.BytesIO(content)) as image:
            shown = image.convert("RGB")
    except UNDECODABLE:  # a machine that went down can leave a part of it
        return missing(path.name)
    shown.thumbnail((_WIDEST, 2 * _WIDEST))
    smaller = io.BytesIO()
    shown.save(smaller, format="webp", quality=85)
    return figure(smaller.getvalue(), caption, "webp")


def write(text: str, path: Path) -> Path:
    """Write a page.

    Args:
        text: The page.
        path: Where to.

    Raises:
        StorageError: If it cannot be written.
    """
    try:
        with written_whole(path) as draft:
            draft.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise StorageError(f"Expected to write {path}; {error}. {remedy(error)}") from error
    return path


def _row(tag: str, cells: Sequence[str]) -> str:
    marks = ["", *[' class="number"'] * (len(cells) - 1)]
    inside = (
        f"<{tag}{mark}>{escaped(cell)}</{tag}>" for mark, cell in zip(marks, cells, strict=True)
    )
    return f"<tr>{''.join(inside)}</tr>"


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")

"""Building blocks of the report: its style sheet, and small functions that return escaped HTML."""

import base64
from collections.abc import Iterable
from html import escape

STYLE = """
:root { color-scheme: light dark; --ground: #f4f6f8; --card: #ffffff; --ink: #1c2128; --muted: #59636e;
  --line: #dfe4ea; --accent: #0072b2; --bad: #b3420a; --good: #00734f; }
@media (prefers-color-scheme: dark) { :root { --ground: #0e1116; --card: #171b21; --ink: #e6edf3; --muted: #9aa4af;
  --line: #2d343c; --accent: #4cacea; --bad: #ff8a4c; --good: #2fc79b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .4rem 0 .8rem; max-width: 50rem; }
.muted, small, figcaption { color: var(--muted); }
.tiles { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr));
  margin: 1.4rem 0; }
.tile, figure, .scroll, pre { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; }
.tile { padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.65rem; font-weight: 650; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile > small { display: block; font-size: .82rem; }
.tile b small { font-size: .9rem; font-weight: 400; }
.figures { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
figure { margin: 0; padding: .7rem; }
figure img { display: block; width: 100%; max-width: 34rem; height: auto; margin: 0 auto; }
.columns { display: grid; gap: .8rem 1.6rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  align-items: start; }
.scroll { overflow: auto; max-height: 30rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .75rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { position: sticky; top: 0; background: var(--card); color: var(--muted); font-weight: 600; }
tr:last-child td { border-bottom: 0; }
td { overflow-wrap: break-word; }
.n { text-align: right; white-space: nowrap; }
.wall { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill, minmax(7.2rem, 1fr)); }
.wall figure { font-size: .78rem; line-height: 1.35; overflow-wrap: anywhere; }
.wall img { height: 6.4rem; object-fit: contain; margin-bottom: .4rem; }
.wall img.small { image-rendering: pixelated; }
.wrong { color: var(--bad); font-weight: 600; }
.right { color: var(--good); font-weight: 600; }
pre { padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .92em; }
td code { overflow-wrap: anywhere; }
"""


def page(title: str, body: str) -> str:
    """Returns a whole document; its content policy lets the browser fetch nothing from anywhere."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def unknown(reason: str) -> str:
    """An en dash with the reason why there is no value; "" where the reason already stands beside
    it.
    """
    return f"– <small>({escape(reason)})</small>" if reason else "–"


def percent(value: float | None, reason: str = "", digits: int = 2) -> str:
    """A fraction as a percentage."""
    return unknown(reason) if value is None else f"{100 * value:.{digits}f} %"


def decimal(value: float | None, reason: str) -> str:
    """A number with three decimals."""
    return unknown(reason) if value is None else f"{value:.3f}"


def tile(heading: str, value: str, *notes: str) -> str:
    """A headline number. `value` and `notes` are HTML already."""
    lines = "".join(f"<small>{note}</small>" for note in notes)
    return (
        f'<div class="tile"><span class="muted">{escape(heading)}</span><b>{value}</b>{lines}</div>'
    )


def table(header: Iterable[str], rows: Iterable[Iterable[str]], text_columns: int = 1) -> str:
    """A scrolling table, numbers right-aligned after the first `text_columns`. Cells are HTML
    already.
    """

    def cell(tag: str, i: int, content: str) -> str:
        return f"<{tag}{'' if i < text_columns else ' class=n'}>{content}</{tag}>"

    head = "".join(cell("th", i, escape(name)) for i, name in enumerate(header))
    lines = ("".join(cell("td", i, content) for i, content in enumerate(row)) for row in rows)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def data_uri(png: bytes) -> str:
    """A PNG as the source of an image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def figure_row(panels: Iterable[tuple[str, bytes, bytes]]) -> str:
    """Figures (title, PNG for light, PNG for dark pages) side by side where there is room."""
    figures = (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{data_uri(dark)}">'
        f'<img src="{data_uri(light)}" alt="{escape(title)}"></picture></figure>'
        for title, light, dark in panels
    )
    return f'<div class="figures">{"".join(figures)}</div>'

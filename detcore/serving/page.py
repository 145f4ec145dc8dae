"""The page at `/`: what can be asked, and a form to try it. It loads nothing from elsewhere, and runs no script."""

from collections.abc import Sequence
from html import escape

from detcore.serving.answers import JsonQuestion, PictureQuestion
from detcore.serving.settings import ServingSettings

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2.5rem auto; padding: 0 1rem; color: #1c2430 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
code, pre { font: 14px/1.5 ui-monospace, monospace; background: #f2f4f7; border-radius: 4px }
code { padding: .1em .3em } pre { padding: .8rem 1rem; overflow-x: auto }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .35rem .6rem .35rem 0;
border-bottom: 1px solid #dde2e8; vertical-align: top } form { display: flex; gap: 1rem; flex-wrap: wrap }
"""
_ASKED = (("/predict", JsonQuestion), ("/draw", PictureQuestion))
_OTHERS = (
    ("GET /model", "labels and limits"),
    ("GET /health, GET /ready", "for whoever starts and stops servers"),
    ("GET /metrics", "for Prometheus"),
    ("GET /openapi.json", "all this for programs"),
)


def page(settings: ServingSettings, labels: Sequence[str], *, address: str) -> str:
    """HTML.

    Args:
        settings: of the server.
        labels: that the model knows.
        address: of the server, as the browser knows it.
    """
    name = escape(settings.shown_name)
    token = " -H 'Authorization: Bearer TOKEN'" if settings.token_sha256 else ""
    shown = ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")
    lines = [
        f"curl{token} -F image=@scene.jpg '{address}/predict?score=0.7'",
        f"curl{token} -H 'Content-Type: image/jpeg' --data-binary @scene.jpg '{address}/predict?masks=polygons'",
        f'curl{token} --json \'{{"image": "BASE64"}}\' {address}/predict',
        f"curl{token} -F image=@scene.jpg {address}/draw --output drawn.png",
    ]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style></head><body>
<h1>{name}</h1>
<p>A detector of {escape(shown) or "nothing that has a name"}, served by detcore. An image of up to
{settings.max_bytes:,} bytes and {settings.max_pixels:,} pixels in, what is in it out.</p>
{_FORM if not settings.token_sha256 else ""}
<h2>From a program</h2>
<pre>{escape(chr(10).join(lines))}</pre>
<table><tr><th>query</th><th>of</th><th>default</th><th></th></tr>{_parameters()}</table>
<h2>Else</h2>
<table>{"".join(f"<tr><td><code>{asked}</code></td><td>{what}</td></tr>" for asked, what in _OTHERS)}</table>
</body></html>"""


_FORM = """<h2>Try it</h2>
<form action="draw" method="post" enctype="multipart/form-data">
<input type="file" name="image" accept="image/*" required> <button>Draw what is in it</button></form>"""


def _parameters() -> str:
    rows = []
    found: dict[tuple[str, str, str], list[str]] = {}
    for path, question in _ASKED:
        for name, field in question.model_fields.items():
            default = "" if field.default is None else str(field.default)
            found.setdefault((name, default, field.description or ""), []).append(path)
    for (name, default, description), paths in found.items():
        cells = (f"<code>{name}</code>", f"<code>{' '.join(paths)}</code>", escape(default), escape(description))
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "".join(rows)

"""Shown samples as one HTML page, and as one picture."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from detcore.data.html_page import figure, heading, jpeg_address, page, row
from detcore.inference.colours import font_of
from detcore.inference.samples import ShownSample

_TILE = 480
"""Width of a picture on the sheet."""
_GAP = 12
_COLUMNS = 4
"""Pictures side by side, unless a sample has more."""


def samples_page(samples: Sequence[ShownSample], *, title: str, about: str) -> str:
    """A self-contained HTML document: a section a sample, its pictures side by side."""
    body = []
    for sample in samples:
        body.append(heading(f"{sample.file_name} · id {sample.image_id}"))
        body.append(row([figure(jpeg_address(view.picture), view.caption) for view in sample.views]))
    return page(title, about, body)


def samples_sheet(samples: Sequence[ShownSample]) -> Image.Image:
    """One RGB picture of all: a line a sample where each has several views, else as many as there is room for."""
    lines = [list(sample.views) for sample in samples]
    names = [[sample.file_name] * len(sample.views) for sample in samples]
    if all(len(line) == 1 for line in lines):
        views, files = [line[0] for line in lines], [line[0] for line in names]
        lines = [views[first : first + _COLUMNS] for first in range(0, len(views), _COLUMNS)]
        names = [files[first : first + _COLUMNS] for first in range(0, len(files), _COLUMNS)]
    font = font_of(14)
    band = 2 * 18 + _GAP
    tiles = [
        [view.picture.resize((_TILE, max(1, round(view.picture.height * _TILE / view.picture.width)))) for view in line]
        for line in lines
    ]
    heights = [max(tile.height for tile in line) + band for line in tiles]
    columns = max(map(len, lines))
    sheet = Image.new("RGB", (columns * (_TILE + _GAP) + _GAP, sum(heights) + _GAP), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    top = _GAP
    for line, files, pictures, height in zip(lines, names, tiles, heights, strict=True):
        for column, (view, file, tile) in enumerate(zip(line, files, pictures, strict=True)):
            left = _GAP + column * (_TILE + _GAP)
            sheet.paste(tile, (left, top))
            for number, (text, ink) in enumerate(((file, (20, 20, 20)), (view.caption, (90, 90, 90)))):
                below = top + tile.height + 3 + 18 * number
                pen.text((left, below), _fitting(text, pen, font), fill=ink, font=font)
        top += height
    return sheet


def _fitting(text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    while pen.textlength(text, font=font) > _TILE and len(text) > 1:
        text = f"{text.rstrip('…')[:-1]}…"
    return text

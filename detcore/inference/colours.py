"""What drawings have in common: a colour for each class, a font."""

from PIL import ImageColor, ImageFont

OPACITY = 0.4
"""Of a class's colour on the pixels that it has."""
# Told apart by most eyes, on dark and on light ground.
_COLOURS = (
    "#ff3b3b", "#1f9bff", "#22c55e", "#ffb300", "#c65bff", "#00d0d0", "#ff6fb5", "#a3d900", "#ff7a1a", "#6f7bff",
)  # fmt: skip
_GOLDEN_RATIO = 0.6180339887498949


RGB = tuple[int, int, int]


def class_colour(label: int) -> RGB:
    """A colour for a class, the same everywhere; the first ten are picked by hand."""
    if label < len(_COLOURS):
        red, green, blue = ImageColor.getrgb(_COLOURS[label])[:3]
    else:
        hue = int(360 * (label * _GOLDEN_RATIO % 1.0))
        red, green, blue = ImageColor.getrgb(f"hsv({hue},{(65, 85)[label % 2]}%,{(95, 75)[label // 2 % 2]}%)")[:3]
    return red, green, blue


def font_of(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font

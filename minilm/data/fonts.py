"""Chinese in plots: matplotlib's own font has none of its letters, and draws a box for each."""

from collections.abc import Collection

from minilm.data.fetch import fetch

# Fonts that systems bring, those in mainland China's shapes first.
INSTALLED = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "SimHei",
    "WenQuanYi Micro Hei",
)


def use_chinese_font(installed: Collection[str] = INSTALLED) -> str:
    """Let all plots from here on draw Chinese too: what matplotlib's own font lacks is taken from `chinese_font`.

    Args:
      installed: names of fonts, the preferred first.
    Returns:
      the name of the font that was added to matplotlib's `font.family`.
    Raises:
      OSError: none is here, and none could be fetched.
    """
    import matplotlib
    from matplotlib import font_manager

    font = chinese_font(installed)
    if file := font.get_file():
        font_manager.fontManager.addfont(file)
    families = [family for family in matplotlib.rcParams["font.family"] if family != font.get_name()]
    matplotlib.rcParams["font.family"] = [*families, font.get_name()]
    return font.get_name()


def chinese_font(installed: Collection[str] = INSTALLED):
    """The properties of a font that has the letters of Chinese.

    One of those that systems bring, where one of them is here; else Noto Sans CJK, by `fetch("cjk-font")`.

    Args:
      installed: names of fonts, the preferred first.
    Raises:
      OSError: none is here, and none could be fetched.
    """
    from matplotlib import font_manager

    here = {font.name for font in font_manager.fontManager.ttflist}
    for name in installed:
        if name in here:
            return font_manager.FontProperties(family=name)
    return font_manager.FontProperties(fname=fetch("cjk-font") / "NotoSansCJKjp-Regular.otf")


def missing_letters(text: str, font) -> set[str]:
    """The letters of a text that a font lacks, so that boxes would be drawn for them; white space is none.

    >>> from matplotlib.font_manager import FontProperties
    >>> missing_letters("ab 中", FontProperties(family="DejaVu Sans"))
    {'中'}
    """
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    letters = FT2Font(font_manager.findfont(font)).get_charmap()
    return {letter for letter in text if not letter.isspace() and ord(letter) not in letters}

"""Plates: their kinds, typefaces and glyphs as data, and the size of a crop of one."""

from typing import Final

CROP: Final = (24, 94)  # height and width in pixels of the crops that training renders and the reader takes
MAX_CHARACTERS: Final = 11  # of a text: with a blank between repeats, they fit into the 23 steps of the reader

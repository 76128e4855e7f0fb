"""What a picture's bytes say before a pixel is decoded: format, size, orientation.

Each reader walks its whole file without decoding, so that a file that ends early, lies about a
length, or carries another file is refused first. It also says which byte ranges make the pixels:
only these are given to Pillow, so that its readers of comments, profiles, animations and other
metadata never see a stranger's bytes.
"""

from perilune.chat.media.headers.header import Header
from perilune.chat.media.headers.read import describe, read_header, sniff

__all__ = ["Header", "describe", "read_header", "sniff"]

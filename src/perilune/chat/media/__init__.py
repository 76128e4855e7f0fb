"""Pictures and clips of a conversation: bytes -> items with a size, a digest, and patches.

`reader.MediaReader` opens them (headers only; `OpenMedia.items` have grid, tokens and digest), and
`OpenMedia.load` decodes. What this package names itself needs neither Pillow nor numpy.

Sources: the media processor published with Kimi K2.5, which K2.6 and K2.7 kept.
"""

from perilune.chat.media.items import LoadedItem, MediaItem, MediaKind, MediaSpan, OpenMedia
from perilune.chat.media.limits import MediaLimits
from perilune.chat.media.processing import MediaProcessing
from perilune.chat.media.sizes import Grid

__all__ = [
    "Grid",
    "LoadedItem",
    "MediaItem",
    "MediaKind",
    "MediaLimits",
    "MediaProcessing",
    "MediaSpan",
    "OpenMedia",
]

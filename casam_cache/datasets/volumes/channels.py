"""Files that hold several volumes: which of them is read is said, never guessed."""

from __future__ import annotations

from pathlib import Path

from casam_cache.errors import ImageError


def choose_channel(
    path: Path, shape: tuple[int, ...], channel: int | None
) -> tuple[tuple[int, int, int], int | None]:
    """The shape of one volume of a file, and which it is; None where the file holds one.

    Axes of length 1 beyond the third are nothing; fewer than three are filled up with 1.

    Raises:
        ImageError: several, and none was chosen; or there is no such channel.
    """
    three = (*shape[:3], 1, 1, 1)
    spatial = (three[0], three[1], three[2])
    rest = [count for count in shape[3:] if count != 1]
    if len(rest) > 1:
        raise ImageError(
            f"{path}: {len(shape)} axes, of shape {shape}", "save one volume of three axes a file"
        )
    if not rest:
        if channel:
            raise no_such_channel(path, channel, 1)
        return spatial, None
    if channel is None:
        raise ImageError(
            f"{path}: {rest[0]} volumes (channels or time points) in one file, of shape {shape}",
            f"say which one is meant: --channel 0 to --channel {rest[0] - 1}",
        )
    if not 0 <= channel < rest[0]:
        raise no_such_channel(path, channel, rest[0])
    return spatial, channel


def no_such_channel(path: Path, channel: int, count: int) -> ImageError:
    there = "one channel only" if count == 1 else f"the channels 0 to {count - 1}"
    return ImageError(
        f"{path}: there is no channel {channel}, the file has {there}", "give another --channel"
    )

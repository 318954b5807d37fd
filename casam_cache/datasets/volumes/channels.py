"""Files that hold several volumes: which of them is read is said, never guessed."""

from __future__ import annotations

from pathlib import Path

from casam_cache.datasets.portion import parse_channels
from casam_cache.datasets.sample import DatasetOptions
from casam_cache.errors import ImageError, OptionError


class SeveralVolumes(ImageError):
    """A file holds several volumes, and none was chosen."""


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
        raise SeveralVolumes(
            f"{path}: {rest[0]} volumes (channels or time points) in one file, of shape {shape}",
            one_of(rest[0]),
        )
    if not 0 <= channel < rest[0]:
        raise no_such_channel(path, channel, rest[0])
    return spatial, channel


def one_of(count: int) -> str:
    """The hint for a file of several; channels are counted from 1 on the command line."""
    return f"say which one is meant: --channels 1 to --channels {count}"


def no_such_channel(path: Path, channel: int, count: int) -> ImageError:
    there = "one only" if count == 1 else f"{count}"
    return ImageError(f"{path}: there is no channel {channel + 1}, it has {there}", "give another --channels")


def asked_channel(options: DatasetOptions) -> int | None:
    """The one channel that `--channels` names, counted from 0; None where it is not given.

    Raises:
        OptionError: it names several.
    """
    if options.channels is None:
        return None
    numbers = parse_channels(options.channels)
    if len(numbers) > 1:
        raise OptionError(
            f"--channels {options.channels}: of volumes one channel is read", "for example --channels 1"
        )
    return numbers[0] - 1

"""Names of files as a terminal may show them: nothing in them moves its cursor, hides text, or is not text at all."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    r"""The text with every character that is not printable escaped, as `\x1b`; bytes that are no UTF-8 as `\xff`.

    Args:
        text: e.g. a file name.
        keep: characters that stay as they are, such as a line break.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _escaped(one) for one in text)


def _escaped(one: str) -> str:
    number = ord(one)
    if 0xDC80 <= number <= 0xDCFF:  # how Python keeps a byte of a file name that is no UTF-8
        return f"\\x{number - 0xDC00:02x}"
    return one.encode("unicode_escape").decode()

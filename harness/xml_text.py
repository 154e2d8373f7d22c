"""Text for XML, whoever wrote it."""

from __future__ import annotations

__all__ = ["xml_text"]


def xml_text(text: str) -> str:
    """Text without the characters that XML 1.0 cannot hold, each as its escape."""
    return "".join(c if c in "\t\n" or (c >= " " and _is_xml(ord(c))) else ascii(c)[1:-1] for c in text)


def _is_xml(code: int) -> bool:
    """Whether a character of that code may stand in XML 1.0 (section 2.2), control characters from 0x7f on left out."""
    return code < 0x7F or 0xA0 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000

"""What a terminal may be given: told by Unicode's categories, not by what the package does."""

from __future__ import annotations

import unicodedata

__all__ = ["ODD_CATEGORIES", "is_plain"]

ODD_CATEGORIES = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
"""Controls, formatting, private use, halves of pairs, and what ends a line."""


def is_plain(text: str) -> bool:
    return not any(unicodedata.category(letter) in ODD_CATEGORIES for letter in text)

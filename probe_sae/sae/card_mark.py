"""Whether a model card is as it was written, or a person has edited it since.

A comment in the front matter, which nobody sees on the hub, holds the hash of all else in the card.
"""

import hashlib
import re

_BEGINS = "# written by probe_sae, which writes it anew while it is not edited: sha256:"
_LINE = re.compile(re.escape(_BEGINS) + r"([0-9a-f]{64})\n")
_MEASURED = re.compile(r"^## Measured.*?(?=^## |\Z)", re.M | re.S)


def marked(card: str) -> str:
    """Return a card, which begins with front matter, with the mark that it is ours."""
    return card.replace("---\n", f"---\n{_BEGINS}{_hash(card)}\n", 1)


def is_as_written(card: str) -> bool:
    """Whether nobody has changed a card since it was marked."""
    found = _LINE.search(card)
    return found is not None and _hash(_LINE.sub("", card, count=1)) == found[1]


def measured_in(card: str) -> str:
    """Return the section of a card that holds metrics; nothing where it has none."""
    found = _MEASURED.search(card)
    return found[0].strip() if found else ""


def may_replace(new: str, old: str) -> bool:
    """Whether a card may take the place of another: nobody edited that, and no metrics are lost."""
    return is_as_written(old) and bool(measured_in(new) or not measured_in(old))


def _hash(card: str) -> str:
    return hashlib.sha256(card.encode("utf-8", "surrogatepass")).hexdigest()

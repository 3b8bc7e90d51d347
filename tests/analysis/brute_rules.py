"""What a rule says of one token, written a second time, from the text alone."""

import re
from typing import Any

from probe_sae.analysis import TextInputs


def holds(rule: dict[str, Any], inputs: TextInputs, context: int, position: int) -> bool:
    """Tell whether a rule holds at a token."""
    if rule["kind"] == "all":
        return all(holds(part, inputs, context, position) for part in rule["parts"])
    place = Place(inputs, context, position)
    column = rule["column"]
    if rule["kind"] == "values":
        if column.startswith("within"):
            return any(value in place.near(int(column[7:])) for value in rule["values"])
        return place.value(column) in rule["values"]
    if rule["kind"] == "flag":
        return place.flag(column) == rule["is"]
    number = place.number(column)
    return number < rule["below"] if "below" in rule else number >= rule["at_least"]


class Place:
    """A token in its context."""

    def __init__(self, inputs: TextInputs, context: int, position: int) -> None:
        ids = inputs.tokens[inputs.offsets[context] : inputs.offsets[context + 1]].tolist()
        self.texts = [inputs.pieces[i].decode("utf-8", "backslashreplace")[:64] for i in ids]
        self.special = [i in inputs.special for i in ids]
        self.at = position
        self.text = self.texts[position]
        starts = [i + 1 for i in range(position) if "\n" in self.texts[i] or self.special[i]]
        self.line = starts[-1] if starts else 0

    def fold(self, at: int) -> str:
        text = self.texts[at]
        return text.strip(" ").casefold() or text

    def near(self, count: int) -> set[str]:
        places = range(max(0, self.at - count), self.at)
        return {self.fold(i) for i in places if not self.special[i] and self.texts[i].strip()}

    def value(self, column: str) -> Any:
        own = self.fold(self.at)
        if column == "token":
            return own
        if column == "exact token":
            return self.text
        if column.startswith(("beginning", "end")):
            n = int(column[-1])
            if len(own) <= n or not own.isalpha():
                return None
            return own[:n] if column.startswith("b") else own[-n:]
        if column == "token before":
            return self.fold(self.at - 1) if self.at else None
        if column == "token after":
            return self.fold(self.at + 1) if self.at + 1 < len(self.texts) else None
        if column == "pair":
            return [self.fold(self.at - 1), own] if self.at else None
        if column == "line's first token":
            seen = [
                i
                for i in range(self.line, self.at + 1)
                if self.texts[i].strip() and not self.special[i]
            ]
            return self.fold(seen[0]) if seen else None
        assert column == "word so far"
        last = self.at
        while last and not self.special[last - 1] and not self.special[last]:
            if not re.fullmatch(r"\w+", self.texts[last]):
                break
            if not re.search(r"\w$", self.texts[last - 1]):
                break
            last -= 1
        word = re.search(r"\w+\Z", "".join(self.texts[last : self.at + 1]))
        return word[0].casefold() if word else None

    def flag(self, column: str) -> bool:
        before = self.texts[self.line : self.at]
        line = "".join(before)
        if column == "in quotes":
            return line.count('"') % 2 == 1
        if column == "in a comment":
            return "#" in line and line.count('"') % 2 == 0
        if column == "in ( )":
            depth = 0
            for char in "".join(self.texts[: self.at]):
                depth = max(0, depth + (char == "(") - (char == ")"))
            return depth > 0
        if column == "after = on the line":
            return "=" in line
        if column == "seen before":
            return bool(self.text.strip()) and self.fold(self.at) in {
                self.fold(i) for i in range(self.at)
            }
        if column == "inside a word":
            return (
                self.at > 0
                and not self.special[self.at - 1]
                and bool(re.fullmatch(r"\w+", self.text))
                and bool(re.search(r"\w$", self.texts[self.at - 1]))
            )
        bare = self.text.strip()
        return {
            "digits": bare.isdigit(),
            "line end": "\n" in self.text,
            "capitalised": bool(re.match(r"[A-Z][a-z]", bare)),
            "lower-case word": bool(re.fullmatch(r"[a-z]{2,}", bare)),
            "punctuation": bool(re.fullmatch(r"[^\w\s]+", bare)),
        }[column]

    def number(self, column: str) -> int:
        if column == "position":
            return self.at - sum(self.special[: self.at])
        if column == "place in the line":
            return self.at - self.line
        assert column == "indentation"
        start = "".join(self.texts[self.line : self.line + 2]).partition("\n")[0]
        if self.line and "\n" in self.texts[self.line - 1]:
            start = self.texts[self.line - 1].rpartition("\n")[2] + start
        return len(start) - len(start.lstrip(" "))

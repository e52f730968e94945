"""Reads a page as a browser would, and says what is wrong with it."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = "</style><script>alert('x')</script><img src=x onerror=alert(1)> & \"quotes\""


class Checker(HTMLParser):
    """Notes unbalanced tags, scripts, handlers and everything that would be fetched."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.problems: list[str] = []
        self.text = ""
        self.scripts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name.startswith("on"):
                self.problems.append(f"handler {name}")
            if name in ("src", "href", "srcset", "data", "action") and not (value or "").startswith("data:image/"):
                self.problems.append(f"{name}={value}")
        if tag == "script":
            self.scripts.append("")
            if attrs:
                self.problems.append(f"script {attrs}")
        if tag in ("link", "iframe", "object", "embed", "base", "form"):
            self.problems.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}>")

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.text += data


def check(html: str, scripts: tuple[str, ...] = ()) -> Checker:
    """The page is whole, loads nothing, and runs these scripts alone."""
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.open and not checker.problems, (checker.open, checker.problems)
    assert tuple(checker.scripts) == scripts
    embedded = re.sub(r"url\(data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+\)", "", html)
    assert not re.search(r"https?:|//[a-z]+\.[a-z]|url\(|@import", embedded), "the page would load something"
    return checker

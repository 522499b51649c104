"""Checks that an HTML file runs no script and loads nothing, as a browser would parse it."""

import base64
import hashlib
from html.parser import HTMLParser


class Page(HTMLParser):
    """The tags, attributes and text that a browser would find.

    Attributes:
        policy: the Content-Security-Policy: directive -> its sources.
        styles: the text of each style sheet.
    """

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.policy, self.styles = {}, []
        self.feed(text)
        self.close()
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if ("http-equiv", "Content-Security-Policy") in attrs:
            assert not {"style", "script", "img"} & set(self.tags)  # a policy applies to what follows it
            directives = [directive.split() for directive in dict(attrs)["content"].split(";")]
            self.policy = {name: sources for name, *sources in directives}

    def handle_data(self, data):
        if self.lasttag == "style" and self.cdata_elem == "style":
            self.styles.append(data)
        self.words.append(data)


def is_inert(page):
    return (
        not {"script", "iframe", "object", "embed", "link", "base", "form", "svg"} & set(page.tags)
        and page.tags.count("style") == 1
        and not [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]
        and all(
            value.startswith("data:image/") for _, name, value in page.attributes if name in {"src", "href"}
        )
        and "srcset" not in {name for _, name, _ in page.attributes}
    )


def hash_source(text):
    """The source by which a policy allows one inline script or style sheet."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def has_strict_policy(page):
    """Whether the page's policy allows its one style sheet and embedded pictures, and nothing else."""
    return page.policy == {
        "default-src": ["'none'"],
        "style-src": [hash_source("".join(page.styles))],
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }

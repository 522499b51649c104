"""Whether a page runs nothing and loads nothing, as a browser would read it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)
        self.close()
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
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

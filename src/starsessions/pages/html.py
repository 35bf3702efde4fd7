"""HTML from values: what is not HTML already is escaped, so that no page can forget it."""

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"input", "link", "meta"})


class Html(str):
    """Text that is HTML. Jinja2 and MarkupSafe do not escape it: they look for `__html__`."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def element(tag: str, /, *children: str | None, **attributes: str | bool | None) -> Html:
    """Return an element.

    Args:
        tag: the name of the element.
        children: what is in it: HTML, and text, which is escaped. None is left out.
        attributes: `class_` is `class`, and `aria_label` is `aria-label`. True is an attribute without a value; None
            and False are left out.

    >>> element("p", "1 < 2", element("b", "!"), class_='"', hidden=True, id=None)
    '<p class="&quot;" hidden>1 &lt; 2<b>!</b></p>'
    >>> element("input", name="user")
    '<input name="user">'
    """
    told = "".join(_attribute(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    return Html(f"<{tag}{told}>" if tag in _VOID else f"<{tag}{told}>{joined(children)}</{tag}>")


def joined(children: Iterable[str | None]) -> Html:
    """Return HTML and text one after the other, the text escaped. None is left out.

    >>> joined(["<", None, Html("<br>")])
    '&lt;<br>'
    """
    return Html("".join(str(each) if isinstance(each, Html) else escape(each) for each in children if each is not None))


def filled(text: str, **values: str) -> Html:
    """Return a text as HTML, with HTML or text in the place of its names in braces.

    >>> filled("<{name}>", name=element("b", "&"))
    '&lt;<b>&amp;</b>&gt;'
    """
    return Html(escape(text).format(**{name: joined([value]) for name, value in values.items()}))


def _attribute(name: str, value: str | bool | None) -> str:
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(value)}"'

"""Docstrings as the house writes them: names such as ``y*`` and sizes such as ``|S|`` are no markup."""

import re

import elsewhere

# What is markup: literals, roles with their text, links.
_MARKUP = re.compile(r"(``.+?``|:[a-z:]+:`[^`]+`|`[^`]+`_{0,2})", re.DOTALL)


def _plain(text: str) -> str:
    return re.sub(r"[*|\\]|(?<=\w)_(?!\w)", lambda found: "\\" + found.group(0), text)


def _linked(markup: str) -> str:
    """Literals that name something of another project become links to it; constants have no entry."""
    if constant := re.fullmatch(r":data:`~?([^`]+)`", markup):
        return f"``{constant[1]}``"
    name = markup.strip("`").removesuffix("()")
    return f":py:obj:`{name}`" if name in elsewhere.NAMES else markup


def escape(app, what, name, thing, options, lines):
    """What stands outside of literals means itself."""
    parts = _MARKUP.split("\n".join(lines))
    parts = [_linked(part) if at % 2 else _plain(part) for at, part in enumerate(parts)]
    lines[:] = "".join(parts).split("\n")
    # Of what has no arguments napoleon would take the words before a colon for its type.
    app.config.napoleon_google_docstring = what not in ("attribute", "data", "property")


def one_by_one(app, what, name, thing, options, lines):
    """A field of several names becomes one for each of them: Sphinx takes the first for a type."""
    found = []
    for field in re.split(r"\n(?=:|\n)", "\n".join(lines)):
        several = re.match(r":(ivar|param|keyword) (\w+(?:, \w+)+):(.*)", field, re.DOTALL)
        if several is None:
            found.append(field)
        else:
            kind, names, text = several.groups()
            found += [f":{kind} {each}:{text}" for each in names.split(", ")]
    lines[:] = "\n".join(found).split("\n")


def setup(app):
    """Before and after napoleon, which adds markup of its own."""
    app.connect("autodoc-process-docstring", escape, priority=100)
    app.connect("autodoc-process-docstring", one_by_one, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

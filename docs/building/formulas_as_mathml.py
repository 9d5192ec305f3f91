"""Formulas as MathML, which browsers draw themselves: no script and no network."""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

LOG = logging.getLogger(__name__)


def _mathml(node, *, block):
    try:
        return tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        LOG.warning("formula %r: %s", node.astext(), error, location=node)
        return ""


def _inline(self, node):
    self.body.append(_mathml(node, block=False))
    raise nodes.SkipNode


def _block(self, node):
    number = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    self.body.append(f'<div class="formula">{_mathml(node, block=True)}{number}</div>\n')
    raise nodes.SkipNode


def setup(app):
    """Offers the renderer, which ``html_math_renderer`` names."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

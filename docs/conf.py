"""How Sphinx builds the site: ``make docs``."""

import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

from goodteacher.experiments.compilation import compile_quickly

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "building"))
# The kernels of the tutorials are processes of their own, and share what one of them has compiled.
compile_quickly()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(HERE.parent / "build" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Their own settings, not the user's, and no notice that they speak over TCP.
profile = HERE.parent / "build" / "ipython" / "profile_default"
profile.mkdir(parents=True, exist_ok=True)
(profile / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 'ERROR'\n")
os.environ["IPYTHONDIR"] = str(profile.parent)

project = "goodteacher"
author = "The goodteacher contributors"
project_copyright = "The goodteacher contributors, Apache-2.0"
version = release = installed("goodteacher")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",
    "elsewhere",
    "formulas_as_mathml",
    "pages_of_the_registry",
]
exclude_patterns = ["building", "generated/*.inc.md"]
nitpicky = True

# Tutorials run, every time; a cell that fails stops the build.
html_math_renderer = "mathml"

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # the shapes are in the docstrings, the annotations in the source beside them
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
add_module_names = False
toc_object_entries = False
# Annotations of attributes; names in docstrings are looked up.
nitpick_ignore_regex = [
    ("py:class", r"(jaxtyping|jax\.jaxlib|jaxlib|collections|functools|diffrax\._|xarray\.core)\..*"),
    ("py:class", r"ndarray|'.*|.*'|"),
]

html_theme = "sphinx_book_theme"
html_title = "goodteacher"
viewcode_follow_imported_members = False  # re-exported names have their source where they are defined
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
}

"""Sphinx: the pages in docs/ and the docstrings of the package, as one site that asks no other site for anything.

Formulas are plain text: MathJax would come from elsewhere.
"""

from importlib.metadata import version as installed_version

project = "trimtab"
author = "The trimtab authors"
copyright = f"2026, {author}"
release = version = installed_version("trimtab")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"trimtab {release}"

myst_heading_anchors = 3  # links to headings within a page, as GitHub makes them

autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a field stands in the class's text alone, not a second time as a member
napoleon_custom_sections = [("Differs from the source", "notes_style")]

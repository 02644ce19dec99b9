"""The API reference, made of the docstrings: CONTRIBUTING has the command."""

project = "captum_cams"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "none"  # the docstrings name the types
add_module_names = False
html_show_copyright = False

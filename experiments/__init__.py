"""Reproducible experiments: one module each, with its settings, its run, its figure and its caption."""

if __name__ != "goodteacher.experiments":
    raise ImportError(
        f"{__name__} was imported from a checkout, which would load everything twice; "
        "import goodteacher.experiments instead, or names from goodteacher"
    )

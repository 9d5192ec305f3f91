"""Exact dynamics of softmax policies under policy gradient. Knows no theorem, experiment or plot."""

if __name__ != "goodteacher.sim":
    raise ImportError(
        f"{__name__} was imported from a checkout, which would load everything twice; "
        "import goodteacher.sim instead, or names from goodteacher"
    )

"""The regenerated gallery, and the plot style that it shares."""

if __name__ != "goodteacher.figures":
    raise ImportError(
        f"{__name__} was imported from a checkout, which would load everything twice; "
        "import goodteacher.figures instead, or names from goodteacher"
    )

"""The name that mosaicml-streaming imports from here."""


class BatchEncoding:
    """Would hold texts as tokens."""

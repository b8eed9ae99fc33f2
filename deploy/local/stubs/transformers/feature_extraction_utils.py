"""The name that mosaicml-streaming imports from here."""


class BatchFeature:
    """Would hold features of pictures and sounds."""

"""The name that mosaicml-streaming imports from here."""


class VisionDataset:
    """A base class of data sets of pictures."""

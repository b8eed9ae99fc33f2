"""The names that mosaicml-streaming imports from here."""


class VisionDataset:
    """A base class of data sets of pictures."""


class CIFAR10(VisionDataset):
    """One of them."""

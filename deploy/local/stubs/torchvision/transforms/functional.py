"""The name that mosaicml-streaming imports from here."""


def to_tensor(_picture: object) -> object:
    """Would make a tensor of a picture.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError("torchvision, which reads pictures, is no part of the role torch")

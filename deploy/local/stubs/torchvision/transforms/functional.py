"""The name that mosaicml-streaming imports from here."""


def to_tensor(picture: object) -> object:
    """Would make a tensor of a picture.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(f"torchvision is not installed: {type(picture).__name__}")

"""The name that mosaicml-streaming imports from here."""


class AutoTokenizer:
    """Would find the tokenizer of a language model."""

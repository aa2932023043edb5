"""The story page of one file: a model with its decoder and tokenizer in JavaScript, for the format ``html``."""

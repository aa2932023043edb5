"""The number of tokens that a model, or the state of its decoding, can read."""

from fabella.errors import UsageError


def require_capacity(tokens: int, limit: int, name: str) -> None:
    """Raise UsageError if ``tokens`` exceed the model's context length (``name``: "context") or a state's capacity."""
    if tokens > limit:
        raise UsageError(
            f"{tokens} tokens are more than the {name} of {limit}.",
            hint=f"Read the last {limit} tokens only"
            + (", or start with a larger capacity." if name == "capacity" else "."),
        )

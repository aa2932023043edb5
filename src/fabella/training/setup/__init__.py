"""From a request to a resolved config and prepared data."""

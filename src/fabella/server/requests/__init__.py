"""Bodies of requests: validation, neutral values, and the prompts that they ask for."""

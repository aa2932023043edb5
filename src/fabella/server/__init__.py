"""HTTP server: an OpenAI-compatible API and the story page. Needs the extra ``serve``."""

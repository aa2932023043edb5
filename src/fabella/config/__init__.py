"""Config sections: frozen pydantic models."""

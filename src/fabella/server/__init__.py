"""Stories over HTTP: an API that existing clients know, and the story page. Needs the extra ``serve``."""

"""Where a document begins and ends in plain text: detection, splitting, and boilerplate around a text."""

"""Tables: rows, the column or columns that hold the text, and conversations in them."""

"""The pipeline that writes a tokenized dataset."""

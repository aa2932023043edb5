"""The modelling file of an export to Hugging Face: the code of a family, in one file."""

"""Text ↔ ids: raw bytes, byte-level BPE, SentencePiece, and tokenizers made elsewhere. ``loading`` opens them."""

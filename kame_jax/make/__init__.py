"""Making data: from questions, text or recordings to records of tokens and data sets."""

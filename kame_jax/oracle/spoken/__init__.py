"""How written text is read aloud: characters, markup and formulas, tokens, and what each means in its context."""

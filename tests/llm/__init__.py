"""Language models behind endpoints."""

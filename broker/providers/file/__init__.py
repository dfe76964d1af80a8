"""The provider of mounted files: what is declared, what may be opened, how it is read."""

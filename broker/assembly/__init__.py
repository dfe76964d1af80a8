"""What `app.py` puts a broker together of: only here and there are collaborators constructed."""

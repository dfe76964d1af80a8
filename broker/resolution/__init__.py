"""What becomes of the references of one request."""

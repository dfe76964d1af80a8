"""What each route answers: HTTP in, a use case, HTTP out."""

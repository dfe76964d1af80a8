"""One request to the store, its answer, and what goes wrong between them."""

"""How much the store is asked at most, and when it is not asked at all."""

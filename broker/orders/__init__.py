"""What administrators and signed webhooks may tell the broker to do, on record before it is done."""

"""What callers tell of their users: checked, then put where the consumer reads it."""

"""A challenger against the champion, on the newest labels."""

"""``valuestream user``: shows, exports and erases one user."""

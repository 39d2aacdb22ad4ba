"""``valuestream user``: show, export and erase one user."""

"""A Triton backend that compiles nothing: with ``TRITON_INTERPRET=1`` the interpreter runs every kernel."""

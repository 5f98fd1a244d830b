"""What fw says about a result: the verdict, its table, its caveats and what to do next.

Every surface renders the same values. They are pure functions of the wire contract: nothing here asks a server.
"""

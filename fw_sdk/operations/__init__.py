"""Every operation of the HTTP API, defined once for both clients; one module for each resource."""

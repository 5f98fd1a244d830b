"""Who may talk to the daemon: tokens, hosts and origins."""

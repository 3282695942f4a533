"""The proxy's server: accepting, and the clients' connections."""

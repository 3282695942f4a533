"""Connections to the servers behind the proxy: one contract, and what fulfils it."""

"""Rules of HTTP/1.1 as plain functions and values: no sockets, no loop."""

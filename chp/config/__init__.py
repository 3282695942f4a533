"""What an operator can set, and how it becomes what the servers and the data plane read."""

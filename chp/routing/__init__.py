"""Which target a request goes to: prefix trie, route table, and where routes are kept."""

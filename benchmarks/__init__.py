"""chp beside other proxies, on the same backend, in one run: see README.md."""

"""What happens to a request: proxying, upgrades, the REST API, metrics, redirects, errors."""

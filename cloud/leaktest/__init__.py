"""The leak test: canaries through every read path of a live installation, in tenants of its own."""

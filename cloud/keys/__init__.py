"""Keys and sealing: what is personal is readable only while the key of its subject exists."""

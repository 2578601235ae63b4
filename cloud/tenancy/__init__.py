"""Who is calling, and which tenant's rows a call may touch."""

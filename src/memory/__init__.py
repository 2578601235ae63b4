"""What a memory is, what a provider of memories must do, and the parts that every provider shares."""

"""The command `luminescent-cloud`: one module per noun, over the same runtime as the library."""

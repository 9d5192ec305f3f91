"""What the command line says of an instance file: results as plain values, and tables of them."""

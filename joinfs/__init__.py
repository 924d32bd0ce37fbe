"""Join key-value stores into one, and mount the result as a directory."""

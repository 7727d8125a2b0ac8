"""What applications load: partitions through the mount, with the standard library alone."""

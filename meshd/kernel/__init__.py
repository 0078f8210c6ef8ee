"""The kernel behind one narrow port: values in ``port``, the pure ``plan``, and backends."""

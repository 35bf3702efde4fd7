"""The proof kit: the contracts of stores and backends as rules, and what proves them."""
